"""Hidden states and caches in the engine's own memory: the same answers, and nothing fetched.

The device here is the CPU behind ONNX Runtime's allocator: the code is that of a GPU but for the
driver's copies.
"""

from __future__ import annotations

import numpy as np
import pytest

from sparsevlm_ops.methods import METHODS
from sparsevlm_trt.runtime import Session
from sparsevlm_trt.runtime.boundary import Layout
from sparsevlm_trt.runtime.device_array import DeviceArray
from sparsevlm_trt.runtime.pruning_plan import plan_pruning
from sparsevlm_trt.runtime.trace import Clock

PROMPT = "USER: <image>\nwhat is in the corner? ASSISTANT:"
LAYOUT = {"prefix_length": 4, "num_visual": 16}
OPTIONS = {"max_new_tokens": 6, "stop_tokens": ()}


@pytest.fixture(scope="module", params=["float32", "float16"])
def sessions(request, bundle_of):
    """The same bundle, on numpy arrays and on device arrays."""
    path = bundle_of(dtype=request.param)
    with Session.load(path) as plain, Session.load(path, resident=True) as resident:
        yield plain, resident


def image(seed):
    return np.random.default_rng(seed).integers(0, 255, (70, 60, 3), np.uint8)


def embeds(batch):
    return np.random.default_rng(2).normal(size=(batch, 30, 64)).astype(np.float32)


def assert_same(one, other):
    assert one.tokens == other.tokens
    assert np.array_equal(one.prefill_logits, other.prefill_logits)
    assert np.array_equal(one.step_logits, other.step_logits)
    assert one.trace.cache_lengths == other.trace.cache_lengths
    assert one.trace.kv_bytes == other.trace.kv_bytes
    for mine, theirs in zip(one.trace.stages, other.trace.stages, strict=True):
        assert mine.kept.tolist() == theirs.kept.tolist()
        assert np.array_equal(mine.scores, theirs.scores)


# The adaptive method prunes after layers that these bundles are not cut after.
@pytest.mark.parametrize("method", sorted(set(METHODS) - {"sparsevlm-adaptive"}))
def test_answers_are_the_same_to_the_bit(sessions, method):
    plain, resident = sessions
    for prompt in ({"images": image(0), "prompt": PROMPT}, {"prompt": "no image"}):
        options = {**prompt, **OPTIONS, "method": method}
        assert_same(plain.generate(**options), resident.generate(**options))


@pytest.mark.parametrize("method", ["sparsevlm", "uniform", "none"])
@pytest.mark.parametrize("batch", [1, 3])
def test_batches_are_the_same_to_the_bit(sessions, method, batch):
    plain, resident = (
        session.generate_from_embeds(embeds(batch), **LAYOUT, **OPTIONS, method=method)
        for session in sessions
    )
    for one, other in zip(plain, resident, strict=True):
        assert_same(one, other)


def test_prompts_with_images_are_joined_on_the_device(sessions):
    prompts = [{"images": image(seed), "prompt": PROMPT} for seed in range(2)]
    plain, resident = (session.generate_batch(prompts, **OPTIONS) for session in sessions)
    for one, other in zip(plain, resident, strict=True):
        assert_same(one, other)


def test_a_prompt_longer_than_the_binding_limit(sessions):
    rows = np.random.default_rng(3).normal(size=(2, 300, 64)).astype(np.float32)
    layout = {"prefix_length": 4, "num_visual": 200, "schedule": {3: 100}}
    plain, resident = (
        session.generate_from_embeds(rows, **layout, **OPTIONS) for session in sessions
    )
    for one, other in zip(plain, resident, strict=True):
        assert_same(one, other)


@pytest.mark.parametrize("batch", [1, 2])
def test_the_host_reads_decisions_and_logits_only(sessions, batch, monkeypatch):
    _, session = sessions
    memory = session.runner.empty((1,), np.float32)._memory
    moved, copy = [], memory.copy

    def recorded(way, target, source, *, rows, width):
        moved.append((way, rows * width))
        copy(way, target, source, rows=rows, width=width)

    monkeypatch.setattr(memory, "copy", recorded)
    chain, clock = session.chain, Clock()
    ids = np.random.default_rng(0).integers(0, 250, (batch, 30))
    prompt = chain.embed(ids, clock)
    assert isinstance(prompt, DeviceArray)
    model = session.bundle.manifest.model
    logits_bytes = batch * model.vocab_size * 4
    layout = Layout(4, 16, 10)
    logits, state = chain.prefill(prompt, layout, plan_pruning(session.bundle.manifest), 3, clock)
    assert "to_device" not in {way for way, _ in moved}
    fetched = sum(size for way, size in moved if way == "to_host") - logits_bytes
    hidden_bytes = batch * 30 * model.hidden_size * prompt.dtype.itemsize
    assert 0 < fetched < hidden_bytes / 4  # the mask of raters, kept tokens and their scores
    moved.clear()
    chain.decode(logits.argmax(axis=1), state, clock)
    assert [size for way, size in moved if way == "to_host"] == [logits_bytes]
    # A batch's rows lie apart: its caches are gathered and filled, but on the device.
    assert any(way == "within" for way, _ in moved) == (batch > 1)
