"""How many operations a time to the first token allows, from times that were measured here."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sparsevlm_trt.runtime.errors import InputError

__all__ = ["share_of_time"]


def share_of_time(target_ms: float, shares: Sequence[float], times_ms: Sequence[float]) -> float:
    """Find the share of the operations that takes so long, between what was seen.

    Attention makes long prompts dearer than their operations say, so that one straight line would
    be too hopeful in the middle; it serves below the cheapest schedule that was seen.

    Args:
        target_ms: Time to the first token that is allowed.
        shares: Share of the unpruned prefill's operations of each schedule, 1 for unpruned.
        times_ms: Median time to the first token of each.

    Returns:
        The share; at or below zero where not even an empty prefill would be fast enough.

    Raises:
        InputError: Times do not grow with the operations, or the unpruned model is fast enough.
    """
    slope, start = np.polyfit(shares, times_ms, 1)
    if slope <= 0:
        raise InputError(
            "target-ttft | times to the first token do not grow with the operations here | "
            "expected a machine that is quiet | try again, or give --target-flops"
        )
    order = np.argsort(shares)
    seen, times = np.asarray(shares)[order], np.maximum.accumulate(np.asarray(times_ms)[order])
    share = float((target_ms - start) / slope)
    if times[0] < target_ms < times[-1]:
        share = float(np.interp(target_ms, times, seen))
    if share >= 1:
        raise InputError(
            f"target-ttft | the unpruned model takes {start + slope:.0f} ms | expected a time "
            f"below that, got {target_ms:g} ms | nothing need be pruned, or ask for less"
        )
    return share
