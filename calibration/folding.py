"""Divide the channels of an activation where it is made, so that no operator is added.

Two makers can be divided: a norm, by its own weights; and a product `activation(gate) * up`, by
the outputs of the linear that makes `up` (behind a Split or Slice where gate and up are one).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from sparsevlm_trt.calibration.sites import Site

__all__ = ["Fold", "find_fold"]

NORMS = ("RMSNormalization", "LayerNormalization")


@dataclass(frozen=True, slots=True, eq=False)
class Fold:
    """Where a division goes.

    Attributes:
        targets: Initializers whose last axis is divided.
        start: First channel of that axis that belongs to the activation.
        stop: The one after the last.
    """

    targets: tuple[ir.Value, ...]
    start: int
    stop: int

    def divide(self, balance: NDArray[np.float32], arrays: dict[str, NDArray[np.float32]]) -> None:
        """Divide the targets, which `arrays` holds by name, in place."""
        for target in self.targets:
            assert target.name is not None
            arrays[target.name][..., self.start : self.stop] /= balance


def find_fold(site: Site) -> Fold | None:
    """Find where a site's activation can be divided; None where it cannot."""
    maker = site.value.producer()
    if not site.is_alone or maker is None:
        return None
    if maker.op_type in NORMS:
        targets = [value for value in maker.inputs[1:3] if value is not None]
        if len(targets) >= 1 and all(_is_free(value) for value in targets):
            return Fold(tuple(targets), 0, _last_size(targets[0]))
        return None
    if maker.op_type == "Mul":
        # The gate is not linear: only a factor that is a linear's plain output will do.
        for value in reversed(maker.inputs):
            found = None if value is None else _linear_output(value)
            if found is not None:
                return found
    return None


def _linear_output(value: ir.Value) -> Fold | None:
    """Follow a value that one node reads back to the columns of a weight."""
    start, stop = 0, None
    if len(value.uses()) != 1:
        return None
    node = value.producer()
    if node is not None and node.op_type == "Split":
        sizes = _constant(node.inputs[1]) if len(node.inputs) > 1 else None
        if sizes is None:
            return None
        position = node.outputs.index(value)
        start = int(sum(sizes[:position]))
        stop = start + int(sizes[position])
        source = node.inputs[0]
        if source is None or len(source.uses()) != 1:
            return None
        node = source.producer()
    if node is None or node.op_type != "MatMul":
        return None
    weight = node.inputs[1]
    if weight is None or not weight.is_initializer() or not _is_free(weight):
        return None
    return Fold((weight,), start, stop if stop is not None else _last_size(weight))


def _is_free(value: ir.Value) -> bool:
    return value.is_initializer() and len(value.uses()) == 1 and value.const_value is not None


def _last_size(value: ir.Value) -> int:
    assert value.const_value is not None
    return int(value.const_value.shape.numpy()[-1])


def _constant(value: ir.Value | None) -> list[int] | None:
    if value is None or value.const_value is None:
        return None
    return [int(size) for size in value.const_value.numpy()]
