"""The ways to quantise: what the numbers of weights and activations become."""

from __future__ import annotations

from dataclasses import dataclass, replace

import ml_dtypes
import numpy as np
import onnx_ir as ir
from numpy.typing import DTypeLike

from sparsevlm_trt.runtime.errors import InputError

__all__ = ["SCHEMES", "Format", "Scheme", "find_scheme"]


@dataclass(frozen=True, slots=True)
class Format:
    """A number format that `DequantizeLinear` reads; symmetric, its zero point is zero.

    Attributes:
        onnx: Its ONNX type.
        numpy: The array type that holds one number an item.
        largest: Magnitude that a scale maps the largest value to.
        bits: Bits of a stored number.
        rounds: Whether it holds whole numbers only.
    """

    onnx: ir.DataType
    numpy: DTypeLike
    largest: float
    bits: int
    rounds: bool


INT8 = Format(ir.DataType.INT8, np.int8, 127.0, 8, True)
INT4 = Format(ir.DataType.INT4, ml_dtypes.int4, 7.0, 4, True)
FP8 = Format(ir.DataType.FLOAT8E4M3FN, ml_dtypes.float8_e4m3fn, 448.0, 8, False)


@dataclass(frozen=True, slots=True)
class Scheme:
    """How a bundle's matrix products are quantised.

    Attributes:
        name: Its name on the command line and in `bundle.json`.
        weights: Format of the weights.
        activations: Format of what they are multiplied with, one scale a tensor; None leaves it.
        block_size: Inputs of an output channel that share a scale; None: all of them.
        compensates: Whether rounding errors of a weight are made up for by those not rounded yet;
            takes second moments of every activation.
        summary: What it is for, in a line.
    """

    name: str
    weights: Format
    activations: Format | None
    block_size: int | None
    compensates: bool
    summary: str


SCHEMES: dict[str, Scheme] = {
    scheme.name: scheme
    for scheme in (
        Scheme("int8", INT8, INT8, None, True, "weights and activations: CPUs and GPUs"),
        Scheme("int8-weight", INT8, None, None, True, "weights only: decoding, least loss"),
        Scheme("int4-weight", INT4, None, 32, True, "weights only: the smallest"),
        Scheme("fp8", FP8, FP8, None, False, "weights and activations: GPUs from Ada on"),
    )
}


def find_scheme(name: str, *, to_nearest: bool = False) -> Scheme:
    """Look a scheme up.

    Args:
        name: One of `SCHEMES`.
        to_nearest: Round weights to the nearest code, whatever the scheme does by itself.

    Raises:
        InputError: There is no such scheme.
    """
    scheme = SCHEMES.get(name)
    if scheme is None:
        raise InputError(
            f"scheme | got {name!r} | expected one of: {', '.join(SCHEMES)} | name one of them"
        )
    return replace(scheme, compensates=False) if to_nearest else scheme
