"""Two configurations on the same questions: who is ahead, and by chance or not."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sparsevlm_trt.runtime.evaluation.intervals import (
    Interval,
    Scores,
    percentiles,
    resampled_means,
)

__all__ = ["Difference", "is_right", "mcnemar", "retained"]

RIGHT = 0.5  # from this score on an answer counts as right where one must say right or wrong


@dataclass(frozen=True, slots=True)
class Difference:
    """A minus B, question by question.

    Attributes:
        mean: Mean score of A minus that of B.
        interval: Its paired bootstrap interval.
        only_first: Questions that A alone has right.
        only_second: Questions that B alone has right.
        p_value: McNemar's exact test of the two counts, two-sided.
    """

    mean: float
    interval: Interval
    only_first: int
    only_second: int
    p_value: float

    @classmethod
    def of(cls, first: Scores, second: Scores) -> Difference:
        """Compare scores `[n]` of the same n questions."""
        delta = first - second
        only_first = int((is_right(first) & ~is_right(second)).sum())
        only_second = int((~is_right(first) & is_right(second)).sum())
        return cls(
            mean=float(delta.mean()),
            interval=percentiles(resampled_means(delta)),
            only_first=only_first,
            only_second=only_second,
            p_value=mcnemar(only_first, only_second),
        )


def is_right(scores: Scores) -> NDArray[np.bool_]:
    """Say of each score whether it counts as right."""
    return scores >= RIGHT


def mcnemar(only_first: int, only_second: int) -> float:
    """McNemar's exact two-sided p-value: could a fair coin have split the questions so?

    Source: Q. McNemar, Psychometrika 12 (1947); the binomial form.
    """
    num = only_first + only_second
    tail = sum(math.comb(num, k) for k in range(min(only_first, only_second) + 1))
    return min(1.0, 2 * tail / (1 << num))


def retained(pruned: Scores, unpruned: Scores) -> tuple[float, Interval] | None:
    """The share of the unpruned score that is left, and its paired bootstrap interval.

    None where the unpruned model scores nothing.
    """
    if not unpruned.any():
        return None
    below = resampled_means(unpruned)
    ratios = resampled_means(pruned)[below > 0] / below[below > 0]
    return float(pruned.mean() / unpruned.mean()), percentiles(ratios)
