"""Rows of different lengths and budgets decode together as each would alone."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsevlm_trt.runtime.boundary import Layout
from sparsevlm_trt.runtime.kv_cache import StageCache
from sparsevlm_trt.runtime.request import plan_pruning
from sparsevlm_trt.runtime.serving.slots import SlotBatch, StageSlots
from sparsevlm_trt.runtime.trace import Clock

PLANS = [
    {"method": "none"},
    {"schedule": "1:9,3:5"},
    {"schedule": "1:3"},
    {"method": "fastv", "schedule": "1:4"},
]


def test_a_ragged_batch_equals_each_row_alone(tiny_session):
    manifest, chain = tiny_session.bundle.manifest, tiny_session.chain
    rng = np.random.default_rng(0)
    steps = 5
    batch = SlotBatch(manifest, tiny_session.runner, len(PLANS))
    alone = []
    for number, plan in enumerate(PLANS):
        layout = Layout(2 + number, 16, 60 * (number % 2) + 3)
        embeds = rng.normal(size=(1, layout.length, manifest.model.hidden_size))
        embeds = embeds.astype(np.float32)
        pruning = plan_pruning(manifest, **plan)
        _, state = chain.prefill(embeds, layout, pruning, steps, Clock())
        batch.join(chain.prefill(embeds, layout, pruning, 0, Clock())[1])
        alone.append(state)
    for step in range(steps):
        tokens = rng.integers(0, 250, len(PLANS))
        together = batch.decode(tokens, Clock())
        for row, state in enumerate(alone):
            expected = chain.decode(tokens[row : row + 1], state, Clock())[0]
            np.testing.assert_allclose(together[row], expected, atol=2e-4, rtol=1e-4)
        assert step < steps


def test_a_row_that_leaves_makes_room_without_a_trace(tiny_session):
    manifest, chain = tiny_session.bundle.manifest, tiny_session.chain
    rng = np.random.default_rng(1)
    batch = SlotBatch(manifest, tiny_session.runner, 3)
    pruning = plan_pruning(manifest, method="none")
    states = []
    for number in range(4):
        layout = Layout(2, 16, 4 + 40 * number)
        embeds = rng.normal(size=(1, layout.length, 64)).astype(np.float32)
        states.append(chain.prefill(embeds, layout, pruning, 4, Clock())[1])
    order = [0, 1, 2]
    for number in order:
        batch.join(states[number])
    batch.leave(0)  # row 2 moves to row 0
    order = [2, 1]
    batch.join(states[3])
    order.append(3)
    tokens = np.array([7, 8, 9])
    together = batch.decode(tokens, Clock())
    for row, number in enumerate(order):
        expected = chain.decode(tokens[row : row + 1], states[number], Clock())[0]
        np.testing.assert_allclose(together[row], expected, atol=2e-4, rtol=1e-4)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 200), min_size=1, max_size=4), st.integers(1, 70))
def test_entries_stay_where_they_belong(lengths, steps):
    slots = StageSlots(range(1), len(lengths), 1, np.float32)
    expected = []
    for row, length in enumerate(lengths):
        cache = StageCache(range(1), 1, length, 1, np.float32)
        places = cache.new_views(length)
        for place in places.values():
            place[...] = np.arange(length)[None, :, None] + 1000 * row
        cache.advance(places)
        slots.put(row, cache)
        expected.append([*range(1000 * row, 1000 * row + length)])
    rows = len(lengths)
    for step in range(steps):
        new = np.full((rows, 1, 1), 50_000 + step, np.float32)
        slots.append(rows, {"new_key_values.0.key": new, "new_key_values.0.value": new})
    keys = slots.views(rows)["past_key_values.0.key"]
    assert keys.flags.c_contiguous
    assert keys.shape[1] >= slots.lengths.max()
    for row, entries in enumerate(expected):
        whole = [*entries, *range(50_000, 50_000 + steps)]
        assert keys[row, : len(whole), 0].tolist() == whole
        assert np.isfinite(keys[row]).all()
    assert slots.used_bytes(rows) == sum(len(e) + steps for e in expected) * 8
