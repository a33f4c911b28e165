"""Intervals and tests against published and closed-form values."""

from __future__ import annotations

import numpy as np
import pytest

from sparsevlm_trt.runtime.evaluation.intervals import Score, bootstrap, wilson
from sparsevlm_trt.runtime.evaluation.paired import Difference, mcnemar, retained


@pytest.mark.parametrize(
    ("successes", "num", "low", "high"),
    [
        (81, 263, 0.2553, 0.3662),  # Newcombe (1998), table I, method 3
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
        (20, 20, 0.8389, 1.0),
    ],
)
def test_wilson_agrees_with_newcombe(successes, num, low, high):
    found = wilson(successes, num)
    assert found.low == pytest.approx(low, abs=1e-4)
    assert found.high == pytest.approx(high, abs=1e-4)


@pytest.mark.parametrize(
    ("b", "c", "p"),
    [(0, 0, 1.0), (3, 3, 1.0), (0, 5, 0.0625), (5, 0, 0.0625), (1, 9, 0.021484375)],
)
def test_mcnemar_is_the_binomial_test(b, c, p):
    assert mcnemar(b, c) == p


def test_mcnemar_of_many():
    assert 0 < mcnemar(1200, 1400) < 0.001


def test_right_and_wrong_has_wilsons_interval_and_grades_the_bootstraps():
    score = Score.of(np.array([1.0, 0.0, 1.0, 1.0]))
    assert (score.num, score.mean, score.interval) == (4, 0.75, wilson(3, 4))
    graded = np.random.default_rng(0).uniform(size=200)
    score = Score.of(graded)
    assert score.interval == bootstrap(graded)
    error = graded.std() / np.sqrt(200)
    assert score.interval.high - score.interval.low == pytest.approx(3.92 * error, rel=0.1)
    assert score.interval.low < score.mean < score.interval.high


def test_a_difference_is_paired():
    rng = np.random.default_rng(1)
    second = (rng.uniform(size=400) < 0.5).astype(float)
    first = second.copy()
    first[np.flatnonzero(second == 0)[:20]] = 1
    found = Difference.of(first, second)
    assert found.mean == pytest.approx(0.05)
    assert (found.only_first, found.only_second) == (20, 0)
    assert found.p_value == 2 / 2**20
    # Unpaired, the interval would be 0.14 wide and hold zero.
    assert 0.025 < found.interval.low < 0.05 < found.interval.high < 0.075


def test_the_same_scores_differ_by_nothing():
    scores = np.array([1.0, 0.0, 1.0])
    found = Difference.of(scores, scores)
    assert (found.mean, found.interval.low, found.interval.high, found.p_value) == (0, 0, 0, 1)


def test_retained():
    unpruned, pruned = np.array([1.0] * 80 + [0.0] * 20), np.array([1.0] * 60 + [0.0] * 40)
    share, interval = retained(pruned, unpruned)
    assert share == pytest.approx(0.75)
    assert interval.low < 0.75 < interval.high
    assert retained(pruned, np.zeros(100)) is None
