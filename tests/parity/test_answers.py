from types import SimpleNamespace

import numpy as np

from sparsevlm_trt.export.parity.answers import compare_answers, compare_logits
from sparsevlm_trt.export.parity.tolerances import tolerance

LOGITS = np.array([[0.0, 3.0, 1.0], [5.0, 1.0, 0.0], [0.0, 1.0, 1.00001]], np.float32)
TOKENS = [1, 0, 2]


def answer(logits, tokens):
    return SimpleNamespace(prefill_logits=logits[0], step_logits=logits[1:], tokens=tokens)


def test_the_same_answer_passes():
    check = compare_answers(answer(LOGITS, TOKENS), TOKENS, LOGITS, "float32")
    assert check.passed
    assert (check.num_equal, check.token_margin, check.prefill_error) == (3, None, 0.0)


def test_logits_beyond_the_tolerance_fail():
    far = LOGITS.copy()
    far[1, 2] += 2 * tolerance("logits", "float32").allowed(5.0)
    check = compare_answers(answer(far, TOKENS), TOKENS, LOGITS, "float32")
    assert not check.passed
    assert check.prefill_error == 0.0
    assert check.step_error > check.allowed


def test_logits_that_are_no_numbers_fail():
    for row in range(3):
        broken = LOGITS.copy()
        broken[row, 1] = np.nan
        assert not compare_answers(answer(broken, TOKENS), TOKENS, LOGITS, "float32").passed
    assert not compare_logits(np.full(3, np.nan, np.float32), LOGITS[0], "float32").passed


def test_a_token_that_a_tie_decides_passes_and_is_told():
    near = LOGITS.copy()
    near[2, 2] -= 5e-5
    check = compare_answers(answer(near, [1, 0, 1]), TOKENS, LOGITS, "float32")
    assert check.passed
    assert check.num_equal == 2
    assert 0 < check.token_margin < 1e-4


def test_another_token_fails():
    check = compare_answers(answer(LOGITS, [1, 2, 2]), TOKENS, LOGITS, "float32")
    assert not check.passed
    assert (check.num_equal, check.token_margin) == (1, 5.0)


def test_rows_after_another_token_read_other_text_and_are_not_compared():
    other = LOGITS.copy()
    other[2] = 100.0
    check = compare_answers(answer(other, [1, 2, 2]), TOKENS, LOGITS, "float32")
    assert check.step_error == 0.0


def test_an_answer_that_is_too_short_fails():
    assert not compare_answers(answer(LOGITS[:2], TOKENS[:2]), TOKENS, LOGITS, "float32").passed
