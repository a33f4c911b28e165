from __future__ import annotations

import numpy as np
import pytest

from sparsevlm_ops.methods import get_method
from sparsevlm_ops.schedule import Schedule
from sparsevlm_trt.runtime.boundary import Layout, Pruning
from sparsevlm_trt.runtime.chain import Chain
from sparsevlm_trt.runtime.errors import InputError
from sparsevlm_trt.runtime.guard import Guard, effective_tokens
from sparsevlm_trt.runtime.guarded_options import guarded_options, question_of
from sparsevlm_trt.runtime.trace import Clock


def test_scores_are_spread_over_as_many_tokens_as_they_are_alike():
    assert effective_tokens(np.full(12, 0.3, np.float32)) == pytest.approx(12)
    assert effective_tokens(np.array([0, 0, 0.4, 0], np.float32)) == pytest.approx(1)
    assert effective_tokens(np.array([0.2, 0.2, 0, 0], np.float32)) == pytest.approx(2)
    assert effective_tokens(np.zeros(5, np.float32)) == 5


def test_a_guard_is_read_in_any_form():
    both = Guard.of(["entropy", "read|text=288", "count=0.5"])
    assert both.share == 0.5
    assert [budget for _, budget in both.rules] == [288, 0.5]
    assert Guard.of("entropy:0.9").share == 0.9
    assert Guard.of({"read": 288}).rules[0][1] == 288
    assert Guard.of(None) == Guard()


@pytest.mark.parametrize(
    "wrong", ["", "all", "entropy:2", "entropy:x", "read=", "read=1.5", "(=64", {"a": 0}, [3]]
)
def test_what_is_no_guard_is_refused(wrong):
    with pytest.raises(InputError, match=r"guard \| .* expected 'entropy'"):
        Guard.of(wrong)


def test_the_largest_budget_of_the_rules_that_match_holds():
    guard = Guard.of({"read|text": 100, "sign": 0.5, "blue": 300})
    assert guard.least_budget("What is the TEXT on the sign?", 576) == 0.5
    assert guard.least_budget("What is the text on the sign?", 144) == 100
    assert guard.least_budget("Is it a dog?", 576) is None


def test_a_rule_raises_the_budget_and_never_lowers_it(manifest):
    # The plan's 7 and 4 of 12 average 7.2 tokens of six layers.
    guard = {"guard": {"read": 10, "dog": 3}}
    assert guarded_options(manifest, guard, "Read it")["budget"] == 10
    for question in ("A dog?", "A cat?"):
        assert guarded_options(manifest, guard, question) == guard


def test_the_question_is_the_last_message():
    parts = [{"type": "image"}, {"type": "text", "text": "Read it"}]
    messages = [{"role": "user", "content": "Hello"}, {"role": "user", "content": parts}]
    assert "Read it" in question_of(None, messages)
    assert "Hello" not in question_of(None, messages)
    assert question_of("A prompt", None) == "A prompt"


def test_by_entropy_a_boundary_keeps_more(make_model):
    manifest, runner = make_model()
    layout = Layout(prefix=2, num_visual=12, num_text=5)
    embeds = np.random.default_rng(1).normal(size=(2, layout.length, 8)).astype(np.float32)
    kept = []
    for share in (0.0, 1.0):
        pruning = Pruning(
            get_method("sparsevlm"), Schedule.of({1: 3, 3: 2}), guard=Guard(share=share)
        )
        _, state = Chain(manifest, runner).prefill(embeds, layout, pruning, 1, Clock())
        kept.append([len(step.kept) for step in state.prunes[0]])
    assert kept[0] == [3, 2]
    scores = [step.scores for row in state.prunes for step in row[:1]]
    most = max(effective_tokens(row) for row in scores)
    assert kept[1][0] == min(11, round(most)) > 3
    assert kept[1][1] >= 2
