"""Sessions on exported bundles of a tiny LLaVA, by ONNX Runtime."""

from __future__ import annotations

import shutil

import numpy as np
import pytest

from sparsevlm_trt.runtime import Session
from sparsevlm_trt.runtime.trace import grid_positions

PROMPT = "USER: <image>\nwhat is in the corner? ASSISTANT:"
OPTIONS = {"max_new_tokens": 5, "stop_tokens": ()}


@pytest.fixture(scope="module")
def session(bundle_of):
    with Session.load(bundle_of()) as opened:
        yield opened


@pytest.fixture(scope="module")
def half(bundle_of):
    with Session.load(bundle_of(dtype="float16")) as opened:
        yield opened


def image(seed):
    return np.random.default_rng(seed).integers(0, 255, (70, 60, 3), np.uint8)


def embeds(session, batch, length=30):
    hidden = session.bundle.manifest.model.hidden_size
    return np.random.default_rng(2).normal(size=(batch, length, hidden)).astype(np.float32)


def test_an_answer_about_an_image(session):
    result = session.generate(images=image(0), prompt=PROMPT, **OPTIONS)
    trace = result.trace
    assert (trace.num_visual, [step.layer for step in trace.stages]) == (16, [1, 3])
    assert [len(step.kept) for step in trace.stages] == [9, 5]
    rows = grid_positions(trace.stages[1].patches, trace.grid)
    assert rows.max() < 4
    assert result.step_logits.shape == (4, session.bundle.manifest.model.vocab_size)
    again = session.generate(images=image(0), prompt=PROMPT, **OPTIONS)
    assert again.tokens == result.tokens
    assert np.array_equal(again.step_logits, result.step_logits)


def test_streamed_pieces_join_to_the_text(session):
    messages = [
        {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "what is it?"}]}
    ]
    options = {"max_new_tokens": 12, "temperature": 1.5, "seed": 4}
    whole = session.generate(images=image(0), messages=messages, **options)
    assert "".join(session.stream(images=image(0), messages=messages, **options)) == whole.text


@pytest.mark.parametrize("method", ["sparsevlm", "none"])
def test_decoding_equals_reading_one_more_token(session, method):
    prompt = embeds(session, 1)[0]
    layout = {"prefix_length": 4, "num_visual": 16}
    first = session.generate_from_embeds(
        prompt, **layout, method=method, max_new_tokens=2, stop_tokens=()
    )
    # The added token may change who votes: the scores are replayed.
    replay = [step.scores for step in first.trace.stages] or None
    ids = np.array([[first.tokens[0]]])
    added = session.runner.run("embed", {"input_ids": ids})["inputs_embeds"][0]
    again = session.generate_from_embeds(
        np.concatenate([prompt, added]), **layout, method=method, max_new_tokens=1, replay=replay
    )
    np.testing.assert_allclose(again.prefill_logits, first.step_logits[0], atol=2e-4)


def test_rows_of_a_batch_are_what_they_are_alone(session):
    layout = {"prefix_length": 4, "num_visual": 16}
    together = session.generate_from_embeds(embeds(session, 3), **layout, **OPTIONS)
    for row, result in zip(embeds(session, 3), together, strict=True):
        alone = session.generate_from_embeds(row, **layout, **OPTIONS)
        assert result.tokens == alone.tokens
        np.testing.assert_allclose(result.step_logits, alone.step_logits, atol=2e-4)
        for mine, theirs in zip(result.trace.stages, alone.trace.stages, strict=True):
            assert mine.kept.tolist() == theirs.kept.tolist()


@pytest.mark.parametrize(("num_visual", "steps"), [(0, 0), (1, 0), (2, 2), (3, 2)])
def test_few_visual_tokens(session, num_visual, steps):
    result = session.generate_from_embeds(
        embeds(session, 1, 12)[0], prefix_length=4, num_visual=num_visual, **OPTIONS
    )
    assert len(result.trace.stages) == steps
    assert np.isfinite(result.step_logits).all()


def test_a_text_of_one_token_votes(session):
    result = session.generate_from_embeds(
        embeds(session, 1, 17)[0], prefix_length=0, num_visual=16, **OPTIONS
    )
    assert [len(step.kept) for step in result.trace.stages] == [9, 5]
    assert np.isfinite(result.step_logits).all()


def test_long_prompts_bind_their_outputs_in_place(session):
    # Outputs beyond 1 MiB take the other path of the runner; rows must still equal shorter calls.
    rows = embeds(session, 6, 300)
    layout = {"prefix_length": 4, "num_visual": 200, "schedule": {3: 100}}
    together = session.generate_from_embeds(rows, **layout, **OPTIONS)
    alone = session.generate_from_embeds(rows[2], **layout, **OPTIONS)
    np.testing.assert_allclose(together[2].step_logits, alone.step_logits, atol=2e-4)


def test_half_precision_on_the_cpu(half):
    result = half.generate(images=image(0), prompt=PROMPT, **OPTIONS)
    assert result.step_logits.dtype == np.float32
    assert np.isfinite(result.step_logits).all()
    assert [len(step.kept) for step in result.trace.stages] == [9, 5]


def test_a_bundle_works_where_it_is_moved_to(session, bundle_of, tmp_path):
    moved = tmp_path / "elsewhere"
    shutil.copytree(bundle_of(), moved)
    with Session.load(moved) as other:
        result = other.generate(images=image(0), prompt=PROMPT, **OPTIONS)
    assert result.tokens == session.generate(images=image(0), prompt=PROMPT, **OPTIONS).tokens
