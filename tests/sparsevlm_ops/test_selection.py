import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from sparsevlm_ops.schedule import num_candidates
from sparsevlm_ops.selection import select

few_levels = hnp.arrays(
    np.float32,
    st.tuples(st.integers(1, 3), st.integers(2, 50)),
    elements=st.sampled_from([0.0, 0.25, 0.5, 1.0]),
)


@given(few_levels, st.data())
def test_the_split_is_by_score_then_by_index(scores, data):
    V = scores.shape[1]
    K = data.draw(st.integers(1, V - 1))
    M = num_candidates(V - K)
    kept, candidates = select(torch.from_numpy(scores), K, M)
    for row, kept_row, candidate_row in zip(scores, kept, candidates, strict=True):
        # Written the authors' way: rank the dropped ones apart.
        best = sorted(range(V), key=lambda i: (-row[i], i))[:K]
        dropped = [i for i in range(V) if i not in best]
        assert kept_row.tolist() == sorted(best)
        assert candidate_row.tolist() == sorted(dropped, key=lambda i: (-row[i], i))[:M]


def test_equal_scores_keep_the_first_tokens():
    kept, candidates = select(torch.ones(1, 20), 12, 3)
    assert kept.tolist() == [list(range(12))]
    assert candidates.tolist() == [[12, 13, 14]]


def test_a_method_that_merges_nothing_has_no_candidates():
    assert select(torch.rand(2, 10), 9, 0)[1].shape == (2, 0)
