"""The chain's bookkeeping: lengths, positions, decisions, and the invariants of pruning."""

from __future__ import annotations

import numpy as np
import pytest

from sparsevlm_ops.methods import get_method
from sparsevlm_ops.schedule import Schedule, stage_visual_counts
from sparsevlm_trt.runtime.boundary import Layout, Pruning
from sparsevlm_trt.runtime.chain import Chain
from sparsevlm_trt.runtime.errors import InputError
from sparsevlm_trt.runtime.trace import Clock

LAYOUT = Layout(prefix=2, num_visual=12, num_text=5)
NONE = Pruning(get_method("none"), None)


def sparse(schedule="1:7,3:4", replay=None):
    return Pruning(get_method("sparsevlm"), Schedule.parse(schedule), replay)


def embeds(layout=LAYOUT, batch=1, seed=1, dtype=np.float32):
    shape = (batch, layout.length, 8)
    return np.random.default_rng(seed).normal(size=shape).astype(dtype)


def stage_calls(runner):
    return [call for call in runner.calls if call.graph.startswith("stage")]


def rater_calls(runner):
    return [call for call in runner.calls if call.graph == "rater_rows"]


def test_lengths_of_caches_and_hidden_states_shrink_as_counted(manifest, runner):
    chain, pruning = Chain(manifest, runner), sparse()
    _, state = chain.prefill(embeds(), LAYOUT, pruning, 3, Clock())
    text = LAYOUT.prefix + LAYOUT.num_text
    expected = [text + count for count in stage_visual_counts(pruning.schedule, 12)]
    assert [cache.length for cache in state.caches] == expected
    assert [cache.capacity for cache in state.caches] == [length + 3 for length in expected]
    assert [call.shapes["hidden_states"][1] for call in stage_calls(runner)] == expected


def test_compact_positions_decode_at_each_stages_own_length(manifest, runner):
    chain, clock = Chain(manifest, runner), Clock()
    _, state = chain.prefill(embeds(), LAYOUT, sparse(), 2, clock)
    lengths = [cache.length for cache in state.caches]
    for step in range(2):
        runner.calls.clear()
        chain.decode(np.array([3]), state, clock)
        positions = [call.integers["position_ids"].item() for call in stage_calls(runner)]
        past = [call.integers["past_lengths"].item() for call in stage_calls(runner)]
        assert positions == past == [length + step for length in lengths]
        assert "rater_rows" not in [call.graph for call in runner.calls]


def test_raters_and_visual_tokens_are_found_in_the_shrunk_sequence(manifest, runner):
    Chain(manifest, runner).prefill(embeds(), LAYOUT, sparse(), 1, Clock())
    first, second = rater_calls(runner)
    assert first.integers["visual_index"].tolist() == [list(range(2, 14))]
    num_visual = second.shapes["queries"][1] - 7
    assert second.integers["visual_index"].tolist() == [list(range(2, 2 + num_visual))]
    shift = 12 - num_visual
    assert (first.integers["rater_index"] - second.integers["rater_index"] == shift).all()
    assert first.integers["rater_index"].min() >= 14


@pytest.mark.parametrize("cuts", [(0,), (4,), (1, 3), (0, 1, 2, 3, 4)])
def test_method_none_does_not_feel_the_cuts(make_model, cuts):
    whole, _ = Chain(*make_model(())).prefill(embeds(), LAYOUT, NONE, 1, Clock())
    logits, state = Chain(*make_model(cuts)).prefill(embeds(), LAYOUT, NONE, 1, Clock())
    np.testing.assert_allclose(logits, whole, atol=1e-5)
    assert [cache.length for cache in state.caches] == [19] * (len(cuts) + 1)
    assert state.prunes == [[]]


def test_method_none_scores_nothing(manifest, runner):
    Chain(manifest, runner).prefill(embeds(), LAYOUT, NONE, 1, Clock())
    assert [call.graph for call in runner.calls] == ["stage_0", "stage_1", "stage_2", "head"]


def test_a_schedule_may_use_some_of_the_boundaries(make_model):
    manifest, runner = make_model((1, 3))
    logits, state = Chain(manifest, runner).prefill(embeds(), LAYOUT, sparse("3:4"), 1, Clock())
    assert [step.layer for step in state.prunes[0]] == [3]
    assert [cache.length for cache in state.caches[:2]] == [19, 19]
    cut_there_only, _ = Chain(*make_model((3,))).prefill(
        embeds(), LAYOUT, sparse("3:4"), 1, Clock()
    )
    np.testing.assert_allclose(logits, cut_there_only, atol=1e-5)


@pytest.mark.parametrize("pruning", [NONE, sparse()])
def test_decoding_equals_a_prefill_with_one_more_token(make_model, pruning):
    # The raters are chosen from the text: replaying fixes the decisions of the longer prompt.
    manifest, runner = make_model((1, 3))
    chain = Chain(manifest, runner)
    _, state = chain.prefill(embeds(), LAYOUT, pruning, 1, Clock())
    scores = tuple(step.scores for step in state.prunes[0]) or None
    decoded = chain.decode(np.array([3]), state, Clock())
    longer = np.concatenate([embeds(), runner.table[[[3]]]], axis=1)
    again, _ = chain.prefill(
        longer, Layout(2, 12, 6), Pruning(pruning.method, pruning.schedule, scores), 0, Clock()
    )
    np.testing.assert_allclose(decoded, again, atol=1e-5)


def test_replaying_its_own_scores_repeats_the_run(manifest, runner):
    chain = Chain(manifest, runner)
    first, state = chain.prefill(embeds(), LAYOUT, sparse(), 1, Clock())
    scores = tuple(step.scores for step in state.prunes[0])
    runner.calls.clear()
    again, _ = chain.prefill(embeds(), LAYOUT, sparse(replay=scores), 1, Clock())
    np.testing.assert_allclose(first, again, atol=1e-5)
    assert "raters" not in [call.graph for call in runner.calls]


@pytest.mark.parametrize("shapes", [[(12,)], [(12,), (9,), (3,)], [(12,), (5,)], [(2, 12), (9,)]])
def test_scores_that_do_not_fit_are_refused_before_any_graph_runs(manifest, runner, shapes):
    replay = tuple(np.ones(shape, np.float32) for shape in shapes)
    with pytest.raises(InputError, match="replay"):
        Chain(manifest, runner).prefill(embeds(), LAYOUT, sparse(replay=replay), 1, Clock())
    assert not runner.calls


def test_text_only_prompts_are_not_pruned(manifest, runner):
    layout = Layout(6, 0, 0)
    logits, state = Chain(manifest, runner).prefill(embeds(layout), layout, sparse(), 1, Clock())
    runner.calls.clear()
    plain, _ = Chain(manifest, runner).prefill(embeds(layout), layout, NONE, 1, Clock())
    np.testing.assert_allclose(logits, plain, atol=1e-5)
    assert state.prunes == [[]]
    assert [cache.length for cache in state.caches] == [6, 6, 6]


@pytest.mark.parametrize(("num_visual", "steps"), [(1, 0), (2, 2), (3, 2)])
def test_a_budget_beyond_the_tokens_drops_one_and_a_single_token_stays(
    manifest, runner, num_visual, steps
):
    layout = Layout(2, num_visual, 3)
    _, state = Chain(manifest, runner).prefill(
        embeds(layout), layout, sparse("1:300,3:200"), 1, Clock()
    )
    prunes = state.prunes[0]
    assert len(prunes) == steps
    for step in prunes:  # K = V - 1, and the one dropped comes back as one merged token
        assert len(step.kept) == step.num_visual_in - 1
        assert step.num_visual_out == step.num_visual_in


def test_a_text_of_one_token_votes_although_it_is_no_better_than_the_mean(manifest, runner):
    layout = Layout(2, 12, 1)
    _, state = Chain(manifest, runner).prefill(embeds(layout), layout, sparse(), 1, Clock())
    assert rater_calls(runner)[0].shapes["rater_index"] == (1, 1)
    assert np.isfinite(state.prunes[0][0].scores).all()


def test_without_text_after_the_image_the_last_token_votes(manifest, runner):
    layout = Layout(2, 12, 0)
    _, state = Chain(manifest, runner).prefill(embeds(layout), layout, sparse(), 1, Clock())
    counts = (12, state.prunes[0][0].num_visual_out)
    for call, num_visual in zip(rater_calls(runner), counts, strict=True):
        assert call.integers["rater_index"].tolist() == [[2 + num_visual - 1]]


def test_rows_of_a_batch_are_what_they_are_alone(make_model):
    manifest, runner = make_model((1, 3))
    chain, batch = Chain(manifest, runner), embeds(batch=3)
    logits, state = chain.prefill(batch, LAYOUT, sparse(), 2, Clock())
    tokens = np.array([3, 4, 5])
    steps = [chain.decode(tokens, state, Clock()) for _ in range(2)]
    for row in range(3):
        one, alone = chain.prefill(batch[row : row + 1], LAYOUT, sparse(), 2, Clock())
        np.testing.assert_allclose(logits[row], one[0], atol=1e-5)
        for mine, theirs in zip(alone.prunes[0], state.prunes[row], strict=True):
            assert mine.kept.tolist() == theirs.kept.tolist()
            assert mine.patches.tolist() == theirs.patches.tolist()
        for step in steps:
            decoded = chain.decode(tokens[row : row + 1], alone, Clock())
            np.testing.assert_allclose(step[row], decoded[0], atol=1e-5)


def test_patches_lead_back_to_the_image(manifest, runner):
    _, state = Chain(manifest, runner).prefill(embeds(), LAYOUT, sparse(), 1, Clock())
    first, second = state.prunes[0]
    assert first.patches.tolist() == [*first.kept.tolist(), *[-1] * first.num_merged]
    kept = [int(first.patches[index]) for index in second.kept]
    assert second.patches.tolist() == kept + [-1] * second.num_merged
    assert second.num_visual_in == first.num_visual_out == len(first.patches)


def test_half_precision_stays_half_and_logits_are_single(make_model):
    manifest, runner = make_model((1, 3), "float16")
    chain = Chain(manifest, runner)
    logits, state = chain.prefill(embeds(dtype=np.float16), LAYOUT, sparse(), 1, Clock())
    assert logits.dtype == np.float32
    assert all(view.dtype == np.float16 for view in state.caches[0].views().values())


def test_every_graph_is_timed(manifest, runner):
    clock = Clock()
    chain = Chain(manifest, runner)
    _, state = chain.prefill(embeds(), LAYOUT, sparse(), 1, clock)
    prunes = [[f"stage_{n}", f"rater_rows_{at}", f"prune_{at}"] for n, at in ((0, 1), (1, 3))]
    expected = ["raters", *prunes[0], *prunes[1], "stage_2", "head"]
    assert [step for step, _ in clock.steps] == expected
    wall, host = clock.lap()
    assert 0 < host < wall
    chain.decode(np.array([1]), state, clock)
    assert [step for step, _ in clock.steps] == ["embed", "stage_0", "stage_1", "stage_2", "head"]
