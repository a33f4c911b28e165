"""The chain under the control methods: who is asked, what is left, and at which positions."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from sparsevlm_ops.methods import get_method
from sparsevlm_ops.schedule import Schedule
from sparsevlm_trt.runtime.boundary import Layout, Pruning
from sparsevlm_trt.runtime.chain import Chain
from sparsevlm_trt.runtime.pruning_plan import plan_pruning
from sparsevlm_trt.runtime.trace import MERGED, Clock

LAYOUT = Layout(prefix=2, num_visual=12, num_text=5)
CONTROLS = ["fastv", "random", "uniform"]


def by(method, schedule="1:6,3:4", seed=0, replay=None):
    return Pruning(get_method(method), Schedule.parse(schedule), replay, seed)


def embeds(layout=LAYOUT, batch=1, seed=1):
    shape = (batch, layout.length, 8)
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def prefill(model, pruning, layout=LAYOUT, given=None):
    manifest, runner = model
    given = embeds(layout) if given is None else given
    return Chain(manifest, runner).prefill(given, layout, pruning, 2, Clock())


def stage_calls(runner):
    return [call for call in runner.calls if call.graph.startswith("stage")]


@pytest.mark.parametrize("method", CONTROLS)
def test_the_raters_are_not_asked(make_model, method):
    model = make_model()
    prefill(model, by(method))
    assert "raters" not in [call.graph for call in model[1].calls]


@pytest.mark.parametrize("method", ["random", "uniform"])
def test_the_host_asks_no_token(make_model, method):
    model = make_model()
    prefill(model, by(method))
    assert "rater_rows" not in [call.graph for call in model[1].calls]


@pytest.mark.parametrize("layout", [LAYOUT, Layout(2, 12, 0)])
def test_fastv_asks_the_last_token(make_model, layout):
    model = make_model()
    _, state = prefill(model, by("fastv"), layout)
    asked = [call for call in model[1].calls if call.graph == "rater_rows"]
    assert len(asked) == 2
    for call in asked:
        assert call.integers["rater_index"].tolist() == [[call.shapes["queries"][1] - 1]]
    assert [len(step.kept) for step in state.prunes[0]] == [6, 4]


def test_fastv_keeps_positions_and_decodes_at_the_unpruned_length(make_model):
    model = make_model()
    _, state = prefill(model, by("fastv"))
    first, second = state.prunes[0]
    before_last, last = stage_calls(model[1])[1:]
    text = list(range(14, 19))
    assert before_last.integers["position_ids"].tolist() == [[0, 1, *(first.patches + 2), *text]]
    assert last.integers["position_ids"].tolist() == [[0, 1, *(second.patches + 2), *text]]
    model[1].calls.clear()
    for step in range(2):
        Chain(*model).decode(np.array([3]), state, Clock())
        positions = [call.integers["position_ids"].item() for call in stage_calls(model[1])]
        assert positions == [19 + step] * 3
        model[1].calls.clear()


@pytest.mark.parametrize("method", ["random", "uniform"])
def test_the_controls_of_sparsevlm_are_numbered_as_it_is(make_model, method):
    model = make_model()
    _, state = prefill(model, by(method))
    last = stage_calls(model[1])[-1]
    assert last.integers["position_ids"].tolist() == [list(range(2 + 4 + 5))]
    model[1].calls.clear()
    Chain(*model).decode(np.array([3]), state, Clock())
    positions = [call.integers["position_ids"].item() for call in stage_calls(model[1])]
    assert positions == [19, 13, 11]


@pytest.mark.parametrize("method", CONTROLS)
def test_as_many_tokens_as_sparsevlm_leaves(make_model, method):
    manifest, runner = make_model()
    sparse = prefill((manifest, runner), plan_pruning(manifest))[1]
    control = prefill((manifest, runner), plan_pruning(manifest, method=method))[1]
    # 12 tokens, 3 x 4, sparsevlm: 8 then 5. Uniform: 2 x 4, then 2 x 3 as 5 would be a strip.
    # FastV: 6 after the one boundary.
    expected = {"random": [8, 5], "uniform": [8, 6], "fastv": [6]}[method]
    assert [step.num_visual_out for step in control.prunes[0]] == expected
    assert [step.num_visual_out for step in sparse.prunes[0]] == [8, 5]


def test_a_seed_decides_and_another_decides_otherwise(make_model):
    kept = [
        [
            step.kept.tolist()
            for step in prefill(make_model(), by("random", seed=seed))[1].prunes[0]
        ]
        for seed in (0, 0, 1)
    ]
    assert kept[0] == kept[1] != kept[2]


def test_the_draw_does_not_look_at_the_prompt(make_model):
    model, pruning = make_model(), by("random", seed=3)
    first, other = (
        prefill(model, pruning, given=embeds(seed=seed))[1].prunes[0] for seed in (1, 2)
    )
    assert [step.kept.tolist() for step in first] == [step.kept.tolist() for step in other]


def test_uniform_keeps_nothing_as_it_was(make_model):
    _, state = prefill(make_model(), by("uniform"))
    first, second = state.prunes[0]
    # 3 x 4 to 2 x 3, then to 2 x 2.
    assert first.scores.tolist() == [0, 0, 1, 2, 0, 0, 1, 2, 3, 3, 4, 5]
    assert second.scores.tolist() == [0, 0, 1, 2, 2, 3]
    for step in (first, second):
        assert len(step.kept) == 0
        assert step.num_merged == step.num_visual_out
        assert step.merge_candidates.tolist() == list(range(step.num_visual_in))
        assert set(step.patches.tolist()) == {MERGED}


def test_without_a_grid_the_tokens_are_one_row(make_model):
    manifest, runner = make_model((1, 3), "float32", vision=False)
    _, state = prefill((manifest, runner), by("uniform", "1:5"))
    assert state.prunes[0][0].scores.tolist() == [0, 0, 0, 1, 1, 2, 2, 2, 3, 3, 4, 4]


@pytest.mark.parametrize("method", CONTROLS)
def test_replaying_its_own_scores_repeats_the_run(make_model, method):
    model = make_model()
    logits, state = prefill(model, by(method, seed=5))
    scores = tuple(step.scores for step in state.prunes[0])
    again, _ = prefill(model, replace(by(method), replay=scores))
    np.testing.assert_allclose(logits, again, atol=1e-5)


@pytest.mark.parametrize("method", CONTROLS)
def test_rows_of_a_batch_are_what_they_are_alone(make_model, method):
    model, batch = make_model(), embeds(batch=3)
    logits, state = prefill(model, by(method), given=batch)
    step = Chain(*model).decode(np.array([3, 4, 5]), state, Clock())
    for row in range(3):
        one, alone = prefill(model, by(method), given=batch[row : row + 1])
        np.testing.assert_allclose(logits[row], one[0], atol=1e-5)
        for mine, theirs in zip(alone.prunes[0], state.prunes[row], strict=True):
            assert mine.kept.tolist() == theirs.kept.tolist()
        decoded = Chain(*model).decode(np.array([3 + row]), alone, Clock())
        np.testing.assert_allclose(step[row], decoded[0], atol=1e-5)


@pytest.mark.parametrize("method", CONTROLS)
@pytest.mark.parametrize("num_visual", [0, 1])
def test_there_may_be_nothing_to_prune(make_model, method, num_visual):
    _, state = prefill(make_model(), by(method), Layout(2, num_visual, 3))
    assert state.prunes == [[]]
