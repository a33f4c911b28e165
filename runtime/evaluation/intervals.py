"""How sure a score is: Wilson's interval for right and wrong, the bootstrap for the rest."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Interval", "Score", "bootstrap", "percentiles", "resampled_means", "wilson"]

Scores = NDArray[np.float64]
Z = 1.959963984540054  # the normal distribution's quantile for 95 %
RESAMPLES = 2000


@dataclass(frozen=True, slots=True)
class Interval:
    """An interval of 95 % confidence."""

    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Score:
    """The mean score of some questions.

    Attributes:
        num: Questions.
        mean: Their mean score, 0 to 1; for right and wrong the accuracy.
        interval: How sure it is.
    """

    num: int
    mean: float
    interval: Interval

    @classmethod
    def of(cls, scores: Scores) -> Score:
        """Average scores `[n]`, n 1 or more."""
        if np.isin(scores, (0.0, 1.0)).all():
            interval = wilson(int(scores.sum()), len(scores))
        else:
            interval = bootstrap(scores)
        return cls(len(scores), float(scores.mean()), interval)


def wilson(successes: int, num: int) -> Interval:
    """Wilson's score interval of a share.

    Args:
        successes: How often.
        num: Of how many, 1 or more.

    Source: E. B. Wilson, Probable Inference, JASA 22 (1927).
    """
    share = successes / num
    centre = (share + Z * Z / (2 * num)) / (1 + Z * Z / num)
    spread = math.sqrt(share * (1 - share) / num + Z * Z / (4 * num * num))
    half = Z * spread / (1 + Z * Z / num)
    low = 0.0 if successes == 0 else max(0.0, centre - half)
    high = 1.0 if successes == num else min(1.0, centre + half)
    return Interval(low, high)


def bootstrap(values: Scores) -> Interval:
    """Percentile bootstrap of the mean of values `[n]`; the same on every call."""
    return percentiles(resampled_means(values))


def resampled_means(values: Scores) -> Scores:
    """Average values `[n]` over each of `RESAMPLES` draws with replacement.

    The draws are the same on every call with the same n, so that what is computed of two
    configurations is paired.
    """
    means: Scores = _draws(len(values)) @ values / len(values)
    return means


def percentiles(drawn: Scores) -> Interval:
    """Take the middle 95 % of what the draws gave."""
    low, high = np.percentile(drawn, (2.5, 97.5))
    return Interval(float(low), float(high))


@functools.lru_cache(maxsize=2)
def _draws(num: int) -> Scores:
    """Count how often each draw takes each question, `[RESAMPLES, num]`."""
    random = np.random.default_rng(0)
    counts = [np.bincount(random.integers(0, num, num), minlength=num) for _ in range(RESAMPLES)]
    return np.array(counts, np.float64)
