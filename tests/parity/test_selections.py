import numpy as np
import pytest

from sparsevlm_trt.export.parity.selections import compare_raters, compare_selection
from sparsevlm_trt.export.parity.tolerances import tolerance

SCORES = np.array([0.9, 0.1, 0.5, 0.8, 0.3, 0.2], np.float32)


def test_the_same_choice_has_no_disagreement():
    check = compare_selection(SCORES, np.array([0, 2, 3]), np.array([4]), "float32")
    assert check.same
    assert check.overlap == 1.0
    assert check.describe() == ""


def test_a_wrong_choice_is_told_with_its_margin():
    check = compare_selection(SCORES, np.array([0, 3, 4]), np.array([2]), "float32")
    assert not check.passed
    assert check.overlap == pytest.approx(2 / 3)
    by_token = {entry.token: entry for entry in check.disagreements}
    assert by_token[2].chosen_by == "reference"
    assert by_token[2].margin == pytest.approx((0.5 - 0.3) / 0.5)
    assert by_token[4].chosen_by == "chain"
    assert by_token[4].margin == pytest.approx((0.5 - 0.3) / 0.5)
    assert "kept 2 only by the reference, margin 0.4" in check.describe()


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_below_the_noise_of_scores_it_is_a_tie(dtype):
    noise = tolerance("score", dtype).allowed(1.0)
    for share, passed in ((0.5, True), (2.0, False)):
        scores = SCORES.copy()
        scores[4] = scores[2] * (1 - share * noise)
        check = compare_selection(scores, np.array([0, 3, 4]), np.array([2]), dtype)
        assert check.passed is passed
        assert not check.same


def test_merge_candidates_are_judged_among_what_the_chain_dropped():
    check = compare_selection(SCORES, np.array([0, 2, 3]), np.array([1]), "float32")
    assert {(e.choice, e.token) for e in check.disagreements} == {("merged", 1), ("merged", 4)}
    assert check.overlap == 1.0


def test_the_order_of_a_choice_does_not_matter():
    assert compare_selection(SCORES, np.array([3, 2, 0]), np.array([5, 4]), "float32").same


def test_raters_are_judged_by_their_distance_to_the_mean():
    scores = np.array([0.1, 0.2, 0.3, 0.4], np.float32)
    mask = scores > scores.mean()
    assert compare_raters(scores, mask, mask, "float32").same
    other = np.array([False, True, True, True])
    check = compare_raters(scores, mask, other, "float32")
    assert not check.passed
    assert [(e.token, e.chosen_by) for e in check.disagreements] == [(1, "chain")]
    assert check.disagreements[0].margin == pytest.approx(0.2, rel=1e-5)
