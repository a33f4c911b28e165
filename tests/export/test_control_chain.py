"""The exported chain against the PyTorch reference, for every method that prunes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import LlavaForConditionalGeneration

from sparsevlm_ops.methods import METHODS
from sparsevlm_ops.reference import pruned_generate
from sparsevlm_ops.schedule import Schedule
from sparsevlm_trt.runtime import Session
from sparsevlm_trt.runtime.bundle_report import cost_report
from sparsevlm_trt.runtime.pruning_plan import plan_pruning

PRUNING = [name for name, method in METHODS.items() if method.prunes]
PREFIX, VISUAL, LENGTH, TOKENS = 4, 16, 30, 8
SCHEDULE = Schedule.of({1: 9, 3: 5})


@pytest.fixture(scope="module")
def session(bundle_of):
    with Session.load(bundle_of()) as opened:
        yield opened


@pytest.fixture(scope="module")
def model(checkpoint_of):
    path = checkpoint_of("llava-llama")
    return LlavaForConditionalGeneration.from_pretrained(path, attn_implementation="eager").eval()


def embeds(session, seed, length=LENGTH):
    hidden = session.bundle.manifest.model.hidden_size
    return np.random.default_rng(seed).normal(size=(length, hidden)).astype(np.float32)


@pytest.mark.parametrize("length", [LENGTH, PREFIX + VISUAL], ids=["text", "no text"])
@pytest.mark.parametrize("method", PRUNING)
def test_the_chain_is_the_reference(session, model, method, length):
    prompt = embeds(session, 3, length)
    chain = session.generate_from_embeds(
        prompt,
        prefix_length=PREFIX,
        num_visual=VISUAL,
        method=method,
        method_seed=7,
        schedule=SCHEDULE,
        max_new_tokens=TOKENS,
        stop_tokens=(),
    )
    own = pruned_generate(
        model,
        torch.from_numpy(prompt)[None],
        PREFIX,
        VISUAL,
        SCHEDULE,
        method=method,
        max_new_tokens=TOKENS,
        seed=7,
        image_grid=session.bundle.manifest.vision.grid,
    )
    assert len(chain.trace.stages) == len(own.stages) == 2
    for ours, theirs in zip(chain.trace.stages, own.stages, strict=True):
        np.testing.assert_allclose(ours.scores, theirs.scores, atol=1e-5)
        assert ours.kept.tolist() == theirs.kept.tolist()
        assert sorted(ours.merge_candidates) == sorted(theirs.merge_candidates.tolist())
        assert (ours.num_merged, ours.num_visual_out) == (
            len(theirs.merged),
            theirs.num_visual_out,
        )
    np.testing.assert_allclose(chain.prefill_logits, own.prefill_logits, atol=1e-4)
    np.testing.assert_allclose(chain.step_logits, own.step_logits, atol=1e-4)
    assert chain.tokens == own.tokens


@pytest.mark.parametrize("method", [name for name in PRUNING if METHODS[name].counts != "rank"])
def test_the_cost_that_is_told_is_the_one_that_is_paid(session, method):
    # Asked without a schedule: as many tokens as the bundle's default leaves.
    manifest = session.bundle.manifest
    result = session.generate_from_embeds(
        embeds(session, 4), prefix_length=PREFIX, num_visual=VISUAL, method=method,
        max_new_tokens=1, stop_tokens=(),
    )  # fmt: skip
    cost = cost_report(
        manifest,
        plan_pruning(manifest, method=method),
        num_visual=VISUAL,
        num_text=LENGTH - VISUAL,
    )
    told = [stage["num_visual"] + LENGTH - VISUAL for stage in cost["stages"]]
    assert told == list(result.trace.cache_lengths)
    sparse = cost_report(
        manifest, plan_pruning(manifest), num_visual=VISUAL, num_text=LENGTH - VISUAL
    )
    assert cost["nominal_average_visual_tokens"] == pytest.approx(
        sparse["nominal_average_visual_tokens"], abs=0.0 if method == "random" else 0.7
    )


def test_decoding_at_the_unpruned_length_equals_reading_one_more_token(session):
    # Original positions: the last token's vote is fixed by replaying the scores.
    layout = {"prefix_length": PREFIX, "num_visual": VISUAL, "method": "fastv"}
    prompt = embeds(session, 5)
    first = session.generate_from_embeds(
        prompt, **layout, max_new_tokens=2, schedule=SCHEDULE, stop_tokens=()
    )
    ids = np.array([[first.tokens[0]]])
    added = session.runner.run("embed", {"input_ids": ids})["inputs_embeds"][0]
    again = session.generate_from_embeds(
        np.concatenate([prompt, added]),
        **layout,
        max_new_tokens=1,
        schedule=SCHEDULE,
        replay=[step.scores for step in first.trace.stages],
    )
    np.testing.assert_allclose(again.prefill_logits, first.step_logits[0], atol=2e-4)


def test_rows_that_keep_different_numbers_are_read_one_by_one(session):
    prompts = np.stack([embeds(session, seed) for seed in (6, 7)])
    options = {"schedule": {1: 2, 3: 1}, "guard": "entropy:0.9", "max_new_tokens": 3}
    options |= {"prefix_length": PREFIX, "num_visual": VISUAL, "stop_tokens": ()}
    together = session.generate_from_embeds(prompts, **options)
    for row, prompt in zip(together, prompts, strict=True):
        alone = session.generate_from_embeds(prompt, **options)
        kept = [stage.kept.tolist() for stage in row.trace.stages]
        assert kept == [stage.kept.tolist() for stage in alone.trace.stages]
        assert row.tokens == alone.tokens
        assert len(kept[0]) > 2


@pytest.mark.parametrize("method", [name for name in PRUNING if name != "fastv"])
@pytest.mark.parametrize("positions", ["compact", "original"])
def test_positions_are_an_option_of_every_method(session, model, method, positions):
    prompt = embeds(session, 8)
    chain = session.generate_from_embeds(
        prompt,
        prefix_length=PREFIX,
        num_visual=VISUAL,
        method=method,
        schedule=SCHEDULE,
        positions=positions,
        max_new_tokens=3,
        stop_tokens=(),
    )
    own = pruned_generate(
        model,
        torch.from_numpy(prompt)[None],
        PREFIX,
        VISUAL,
        SCHEDULE,
        method=method,
        max_new_tokens=3,
        image_grid=session.bundle.manifest.vision.grid,
        positions=positions,
    )
    np.testing.assert_allclose(chain.prefill_logits, own.prefill_logits, atol=1e-4)
    np.testing.assert_allclose(chain.step_logits, own.step_logits, atol=1e-4)
