"""One interleaved run: every round runs every case once, so that a drift hits all alike."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from sparsevlm_trt.runtime.bench.case import Case
from sparsevlm_trt.runtime.bench.contender import Contender

__all__ = ["run_rounds"]


def run_rounds(
    contenders: Mapping[str, Contender],
    cases: Sequence[Case],
    *,
    rounds: int,
    num_steps: int,
    progress: Callable[[str, int, int], None],
) -> list[dict[str, Any]]:
    """Measure all cases in turn.

    Args:
        contenders: By the names that cases use.
        cases: What to run.
        rounds: How often, after one round that warms up and is not counted.
        num_steps: Decode steps of each.
        progress: Called before each run: its name, its number from 0, how many there are.

    Returns:
        A row for each case: median of each figure, the half width of the middle half of the times
        that head the table, as a share, and the time to the first token of the contender's first
        case in the round that warms up, loading included.
    """
    samples: dict[Case, list[dict[str, float]]] = {case: [] for case in cases}
    cold: dict[str, float] = {}
    for number in range(rounds + 1):
        for place, case in enumerate(cases):
            name = f"{case.contender} {case.budget or 'none'}"
            progress(name, number * len(cases) + place, (rounds + 1) * len(cases))
            contender = contenders[case.contender]
            sample = contender.sample(case, num_steps)
            if number:
                samples[case].append(sample)
            elif "first_token_ms" in sample:
                cold.setdefault(case.contender, contender.load_ms + sample["first_token_ms"])
    return [
        _row(case, taken, contenders[case.contender], cold.get(case.contender))
        for case, taken in samples.items()
    ]


def _row(
    case: Case, taken: Sequence[dict[str, float]], contender: Contender, cold_ms: float | None
) -> dict[str, Any]:
    medians = {name: statistics.median(one[name] for one in taken) for name in taken[0]}
    spread = {
        f"{name}_spread": _spread([one[name] for one in taken])
        for name in ("language_ms", "decode_ms")
    }
    return {
        "contender": case.contender,
        "method": case.method,
        "budget": case.budget,
        "shape": None if case.shape is None else str(case.shape),
        "batch": case.shape.batch if case.shape else 1,
        **medians,
        **spread,
        "load_ms": contender.load_ms,
        "load_bytes": contender.load_bytes,
        "cold_first_token_ms": cold_ms,
    }


def _spread(values: Sequence[float]) -> float:
    """Half the distance between the quartiles, over the median."""
    if len(values) < 2:
        return 0.0
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return (high - low) / 2 / middle if middle else 0.0
