"""Bilinear resampling of feature maps, as PyTorch's `interpolate` computes it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from sparsevlm_trt.runtime.runner import Array

__all__ = ["resampled"]


def resampled(features: Array, rows: int, columns: int) -> Array:
    """Resample maps of features.

    Args:
        features: `[..., H, W, N]`, any float type; computed in float32.
        rows: New H.
        columns: New W.

    Returns:
        `[..., rows, columns, N]` of the same type.

    Source: `torch.nn.functional.interpolate(mode="bilinear")`, corners not aligned, no antialias.
    """
    down = _weights(features.shape[-3], rows)
    across = _weights(features.shape[-2], columns)
    wide = np.einsum("rh,...hwn->...rwn", down, features.astype(np.float32), optimize=True)
    made: Array = np.einsum("cw,...rwn->...rcn", across, wide, optimize=True)
    return made.astype(features.dtype)


def _weights(size: int, wanted: int) -> NDArray[np.float32]:
    """Which share of each old line goes into each new one, `[wanted, size]`."""
    place = np.maximum((np.arange(wanted) + 0.5) * (size / wanted) - 0.5, 0.0)
    before = place.astype(np.int64)
    after = np.minimum(before + 1, size - 1)
    share = (place - before).astype(np.float32)
    weights = np.zeros((wanted, size), np.float32)
    lines = np.arange(wanted)
    weights[lines, before] += 1 - share
    weights[lines, after] += share
    return weights
