"""Weights as codes and scales: to the nearest, or with each error made up for by what follows.

Dims: K inputs, M outputs, B blocks of inputs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparsevlm_trt.calibration.schemes import Format

__all__ = ["Codes", "compensated", "nearest", "rounded"]

Floats = NDArray[np.float32]
DAMPING = 0.01  # of the mean diagonal, as in the paper
COLUMNS = 128  # inputs rounded before the errors go on to the rest in one product
# A scale below it would lose digits in float16, whose normal numbers begin at 6.1e-5.
LEAST_SCALE = {np.dtype(np.float32): 1e-30, np.dtype(np.float16): 6.2e-5}


@dataclass(frozen=True, slots=True, eq=False)
class Codes:
    """A quantised weight.

    Attributes:
        codes: `[K, M]` in the format's array type.
        scales: `[M]`, or `[B, M]` for a scale to a block; in the type of the graph.
    """

    codes: NDArray[Any]
    scales: NDArray[Any]

    def values(self) -> Floats:
        """What a graph makes of it, `[K, M]`."""
        scales = self.scales.astype(np.float32)
        if scales.ndim == 2:
            scales = np.repeat(scales, self.codes.shape[0] // scales.shape[0], axis=0)
        product: Floats = self.codes.astype(np.float32) * scales
        return product


def rounded(scaled: Floats, form: Format) -> Floats:
    """The numbers of a format that are nearest to values in units of the scale."""
    if form.rounds:
        return np.clip(np.rint(scaled), -form.largest, form.largest)
    clipped = np.clip(scaled, -form.largest, form.largest)
    return clipped.astype(form.numpy).astype(np.float32)


def nearest(
    weight: Floats, form: Format, block_size: int | None, scale_dtype: np.dtype[Any]
) -> Codes:
    """Round every weight to the nearest code.

    Args:
        weight: `[K, M]`.
        form: Its format to be.
        block_size: Inputs that share a scale; a divisor of K. None: all.
        scale_dtype: Type of the scales.
    """
    scales = _scales(weight, form, block_size, scale_dtype)
    spread = _spread(scales, weight.shape[0])
    return Codes(rounded(weight / spread, form).astype(form.numpy), scales)


def compensated(
    weight: Floats,
    moments: Floats,
    form: Format,
    block_size: int | None,
    scale_dtype: np.dtype[Any],
) -> Codes:
    """Round the inputs one after another; those still to come make up for each error.

    Args:
        weight: `[K, M]`.
        moments: Sum of outer products of the inputs, `[K, K]`.
        form: As `nearest`.
        block_size: As `nearest`.
        scale_dtype: As `nearest`.

    Source: GPTQ (arXiv 2210.17323), algorithm 1, with the inputs in their own order, so that
    blocks share their scales as they lie.
    """
    num_inputs = weight.shape[0]
    weight, hessian = weight.copy(), moments.astype(np.float64)
    scales = _scales(weight, form, block_size, scale_dtype)
    spread = _spread(scales, num_inputs)
    unseen = np.diag(hessian) == 0
    hessian[unseen, unseen] = 1.0
    hessian[np.diag_indices(num_inputs)] += DAMPING * np.diag(hessian).mean()
    # The upper Cholesky factor of the inverse: row k is how an error at k spreads to those after.
    inverse = np.linalg.inv(hessian)
    factor = np.linalg.cholesky(inverse, upper=True).astype(np.float32)
    values = np.empty_like(weight)
    for start in range(0, num_inputs, COLUMNS):
        stop = min(start + COLUMNS, num_inputs)
        errors = np.empty((stop - start, weight.shape[1]), np.float32)
        for k in range(start, stop):
            values[k] = rounded(weight[k] / spread[k], form)
            errors[k - start] = (weight[k] - values[k] * spread[k]) / factor[k, k]
            weight[k:stop] -= np.outer(factor[k, k:stop], errors[k - start])
        weight[stop:] -= factor[start:stop, stop:].T @ errors
    return Codes(values.astype(form.numpy), scales)


def _scales(
    weight: Floats, form: Format, block_size: int | None, dtype: np.dtype[Any]
) -> NDArray[Any]:
    num_inputs, num_outputs = weight.shape
    block = block_size or num_inputs
    largest = np.abs(weight).reshape(num_inputs // block, block, num_outputs).max(axis=1)
    scales = np.maximum(largest / form.largest, LEAST_SCALE[dtype]).astype(dtype)
    kept: NDArray[Any] = scales if block_size else scales[0]
    return kept


def _spread(scales: NDArray[Any], num_inputs: int) -> Floats:
    """A scale for every weight, `[K, M]` or broadcast to it."""
    spread = np.atleast_2d(scales.astype(np.float32))
    repeated: Floats = np.repeat(spread, num_inputs // spread.shape[0], axis=0)
    return repeated
