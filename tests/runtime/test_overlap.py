"""What two runs keep of the same patches."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from sparsevlm_trt.runtime.evaluation.overlap import kept_overlap, mean_overlap


def trace(*stages):
    return SimpleNamespace(stages=[SimpleNamespace(patches=np.array(each)) for each in stages])


def test_the_share_is_of_the_first_ones_patches_and_the_mean_of_the_boundaries():
    first = trace([0, 1, 2, 3, -1], [1, 3])
    second = trace([0, 1, 7, 8, 9, -1], [1, 3])
    assert kept_overlap(first, second) == pytest.approx((0.5 + 1) / 2)
    assert kept_overlap(second, first) == pytest.approx((0.4 + 1) / 2)


def test_merged_tokens_count_for_neither():
    assert kept_overlap(trace([-1, 4]), trace([-1, 5])) == 0.0
    assert kept_overlap(trace([-1]), trace([-1])) is None


def test_nothing_is_pruned():
    assert kept_overlap(trace(), trace()) is None


def test_the_mean_leaves_out_pairs_that_do_not_prune():
    pruned, unpruned = trace([0, 1]), trace()
    pairs = [(pruned, pruned), (unpruned, unpruned), (pruned, trace([5]))]
    assert mean_overlap(pairs) == pytest.approx(0.5)
    assert mean_overlap([(unpruned, unpruned)]) is None
