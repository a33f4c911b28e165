"""How far two runs of one prompt keep the same patches."""

from __future__ import annotations

import statistics
from collections.abc import Iterable

import numpy as np

from sparsevlm_trt.runtime.trace import Trace

__all__ = ["kept_overlap", "mean_overlap"]


def kept_overlap(first: Trace, second: Trace) -> float | None:
    """Mean share over the boundaries of the first one's kept patches that the second keeps too.

    Merged tokens stand for no patch, and count for neither. None where nothing is pruned.
    """
    shares = []
    for one, other in zip(first.stages, second.stages, strict=True):
        kept = one.patches[one.patches >= 0]
        if len(kept):
            shares.append(len(np.intersect1d(kept, other.patches)) / len(kept))
    return float(np.mean(shares)) if shares else None


def mean_overlap(pairs: Iterable[tuple[Trace, Trace]]) -> float | None:
    """Mean of `kept_overlap` over the pairs that prune; None where none does."""
    measured = [overlap for pair in pairs if (overlap := kept_overlap(*pair)) is not None]
    return statistics.fmean(measured) if measured else None
