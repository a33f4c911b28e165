"""Rows of different lengths, methods and budgets decode together as each would alone."""

from __future__ import annotations

import gc
import weakref

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsevlm_ops.methods import get_method
from sparsevlm_ops.schedule import Schedule
from sparsevlm_trt.runtime.boundary import Layout, Pruning
from sparsevlm_trt.runtime.chain import Chain
from sparsevlm_trt.runtime.kv_cache import StageCache
from sparsevlm_trt.runtime.slots import SlotBatch
from sparsevlm_trt.runtime.stage_slots import StageSlots
from sparsevlm_trt.runtime.trace import Clock

PLANS = [  # fastv keeps original positions
    Pruning(get_method("none"), None),
    Pruning(get_method("sparsevlm"), Schedule.of({1: 7, 3: 4})),
    Pruning(get_method("fastv"), Schedule.of({1: 5})),
]
OPERATIONS = st.lists(
    st.one_of(
        st.tuples(st.just("join"), st.integers(0, 2), st.integers(0, 40)),
        st.tuples(st.just("leave"), st.integers(0, 3), st.just(0)),
        st.tuples(st.just("decode"), st.integers(1, 3), st.just(0)),
    ),
    min_size=4,
    max_size=12,
)


def read(chain, plan, num_text, batch=1):
    layout = Layout(2, 12, num_text + 1)
    rng = np.random.default_rng(plan + 10 * num_text)
    embeds = rng.normal(size=(batch, layout.length, 8)).astype(chain.dtype)
    return chain.prefill(embeds, layout, PLANS[plan], 40, Clock())


def check_step(chain, batch, alone, step):
    tokens = (np.arange(batch.rows) * 7 + step) % 32
    together = batch.decode(tokens, Clock())
    for row, state in enumerate(alone):
        expected = chain.decode(tokens[row : row + 1], state, Clock())[0]
        np.testing.assert_allclose(together[row], expected, atol=1e-4)
    for cache, *states in zip(batch.caches, *(s.caches for s in alone), strict=True):
        assert cache.lengths.tolist() == [state.length for state in states]


@settings(max_examples=25, deadline=None)
@given(OPERATIONS)
def test_rows_that_join_and_leave_are_what_they_are_alone(make_model, operations):
    manifest, runner = make_model()
    chain = Chain(manifest, runner)
    batch, alone = SlotBatch(chain, manifest, 4), []
    for number, (what, first, second) in enumerate(operations):
        if what == "join" and batch.rows < 4:
            _, state = read(chain, first, second)
            batch.join(state)
            alone.append(state)
        elif what == "leave" and first < batch.rows:
            batch.leave(first)
            alone[first] = alone[-1]
            alone.pop()
        elif what == "decode" and batch.rows:
            for step in range(first):
                check_step(chain, batch, alone, number + step)
    assert batch.rows == len(alone)


def test_a_prompt_of_several_rows_joins_row_by_row(make_model):
    manifest, runner = make_model()
    chain = Chain(manifest, runner)
    batch = SlotBatch(chain, manifest, 3)
    _, state = read(chain, 1, 5, batch=2)
    batch.join(state, 1)
    batch.join(read(chain, 0, 9)[1])
    batch.join(state, 0)
    tokens = np.array([4, 9, 6])
    together = batch.decode(tokens, Clock())
    both = chain.decode(tokens[[2, 0]], state, Clock())
    np.testing.assert_allclose(together[[2, 0]], both, atol=1e-5)
    with pytest.raises(ValueError, match="got row 4"):
        batch.join(state)
    batch.clear()
    assert batch.rows == 0


def test_rows_that_were_read_together_move_in_order_and_their_caches_go(make_model):
    manifest, runner = make_model()
    chain = Chain(manifest, runner)
    batch, alone = SlotBatch(chain, manifest, 3), SlotBatch(chain, manifest, 3)
    (_, pair), (_, single) = read(chain, 1, 5, batch=2), read(chain, 0, 9)
    places = [(pair, 1), (single, 0), (pair, 0)]
    for state, row in places:
        alone.join(state, row)
    seen = [weakref.ref(cache) for state in (pair, single) for cache in state.caches]
    batch.move(places)
    gc.collect()
    assert [cache() for cache in seen] == [None] * len(seen)
    tokens = np.array([4, 9, 6])
    assert np.array_equal(batch.decode(tokens, Clock()), alone.decode(tokens, Clock()))
    with pytest.raises(ValueError, match="got row 4"):
        batch.move([(read(chain, 0, 9)[1], 0)])


def test_a_step_costs_what_is_in_the_cache_not_what_was():
    slots = StageSlots(range(2), 8, 4, np.float32)
    assert (slots.capacity, slots.reserved_bytes) == (0, 0)
    for length in (700, 30):
        cache = StageCache(range(2), length, 4, np.float32)
        places = cache.new_views(length)
        for place in places.values():
            place[...] = length
        cache.advance(places)
        slots.join(cache.views(), length)
    assert slots.views()["past_key_values.1.key"].shape == (2, 704, 4)
    slots.leave(0)
    assert slots.views()["past_key_values.1.key"].shape == (1, 64, 4)
    assert (slots.views()["past_key_values.0.value"][0, :30] == 30).all()
    assert slots.used_bytes == 30 * 4 * 4 * 4
    assert slots.reserved_bytes < 3 * 64 * 4 * 4 * 4


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(1, 200), min_size=1, max_size=4), st.integers(1, 70))
def test_entries_stay_where_they_belong(lengths, steps):
    slots = StageSlots(range(1), len(lengths), 1, np.float32)
    expected = []
    for row, length in enumerate(lengths):
        cache = StageCache(range(1), length, 1, np.float32)
        places = cache.new_views(length)
        for place in places.values():
            place[...] = np.arange(length)[None, :, None] + 1000 * row
        cache.advance(places)
        slots.join(cache.views(), length)
        expected.append([*range(1000 * row, 1000 * row + length)])
    for step in range(steps):
        places = slots.new_views(1)
        for place in places.values():
            place[...] = 50_000 + step
        slots.advance(places)
    keys = slots.views()["past_key_values.0.key"]
    assert keys.flags.c_contiguous
    assert slots.lengths.max() <= keys.shape[1] <= slots.lengths.max() + 128
    for row, entries in enumerate(expected):
        whole = [*entries, *range(50_000, 50_000 + steps)]
        assert keys[row, : len(whole), 0].tolist() == whole
        assert np.isfinite(keys[row]).all()
