"""Buffers on paper: no two live ones overlap, no cache entry is read after it was overwritten."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsevlm_trt.runtime.bundle import Bundle
from sparsevlm_trt.runtime.engines.limits import Limits
from sparsevlm_trt.runtime.graph_spec import StageSpec
from sparsevlm_trt.runtime.manifest import Manifest
from sparsevlm_trt.runtime.tensorrt.arena import ALIGNMENT, Arena
from sparsevlm_trt.runtime.tensorrt.buffer_plan import plan_buffers
from sparsevlm_trt.runtime.tensorrt.request_bytes import RequestShape, forecast_bytes


@pytest.fixture(scope="module")
def model(bundle_of) -> Manifest:
    """A real manifest, cut twice, with caches wide enough to tell their sizes apart."""
    sample = Bundle.open(bundle_of(), verify=False).manifest
    return replace(
        sample,
        model=replace(sample.model, num_layers=5, num_heads=2, num_kv_heads=2, head_dim=32),
        vision=replace(sample.vision, num_visual=12, grid=(3, 4)),
        stages=(StageSpec("stage_0", 0, 2), StageSpec("stage_1", 2, 4), StageSpec("s", 4, 5)),
    )


@st.composite
def shapes(draw, boundaries: int = 2) -> RequestShape:
    visual = draw(st.integers(0, 40))
    after, left = [], visual
    for _ in range(boundaries):
        left = draw(st.integers(min(1, left), left))
        after.append(left)
    text = draw(st.integers(1, 20))
    return RequestShape(
        batch=draw(st.integers(1, 3)),
        num_prefix=draw(st.integers(0, 8)),
        num_visual=visual,
        num_text=text,
        num_raters=draw(st.integers(1, text)),
        num_new=draw(st.integers(1, 9)),
        visual_after=tuple(after),
    )


@settings(max_examples=40, deadline=None)
@given(shape=shapes())
def test_live_buffers_never_overlap(model, shape):
    for step in plan_buffers(model, shape).steps:
        places = sorted(place for _, place in step.live)
        for one, other in itertools.pairwise(places):
            assert one.stop <= other.offset
        for use in (*step.reads, *step.writes):
            home = dict(step.live)[use.buffer]
            assert home.offset <= use.place.offset
            assert use.place.stop <= home.stop


@settings(max_examples=40, deadline=None)
@given(shape=shapes())
def test_a_step_never_writes_what_it_reads(model, shape):
    for step in plan_buffers(model, shape).steps:
        for write in step.writes:
            assert not any(write.place.overlaps(read.place) for read in step.reads)


@settings(max_examples=40, deadline=None)
@given(shape=shapes())
def test_every_read_finds_what_was_written_for_it(model, shape):
    # Each byte remembers its last writer: (buffer, tensor family).
    memory: dict[int, tuple[str, str]] = {}
    step_bytes = 32  # every size is a multiple of it
    for step in plan_buffers(model, shape).steps:
        for read in step.reads:
            if not read.tensor.startswith("past_key_values"):
                continue
            for byte in range(read.place.offset, read.place.stop, step_bytes):
                assert memory.get(byte) == (read.buffer, "cache"), (step.graph, read)
        for write in step.writes:
            kind = "cache" if write.tensor.startswith("new_key_values") else "other"
            for byte in range(write.place.offset, write.place.stop, step_bytes):
                # An entry is written once: nobody may overwrite it while its cache lives.
                if kind == "cache":
                    assert memory.get(byte) != (write.buffer, "cache")
                memory[byte] = (write.buffer, kind)


@settings(max_examples=40, deadline=None)
@given(shape=shapes())
def test_every_cache_entry_is_read_by_the_next_step(model, shape):
    steps = plan_buffers(model, shape).steps
    written: dict[str, int] = {}
    for step in steps:
        read: dict[str, int] = {}
        for use in step.reads:
            if use.tensor.startswith("past_key_values"):
                read[use.buffer] = read.get(use.buffer, 0) + use.place.size_bytes
        for buffer, size in read.items():
            assert size == written[buffer]
        for use in step.writes:
            if use.tensor.startswith("new_key_values"):
                written[use.buffer] = written.get(use.buffer, 0) + use.place.size_bytes
    for number, stage in enumerate(model.stages):
        entries = shape.batch * (shape.length(number) + shape.num_new - 1)
        entry_bytes = 4 * model.model.num_kv_heads * model.model.head_dim
        assert written[f"{stage.first}.key"] == entries * entry_bytes


@settings(max_examples=40, deadline=None)
@given(shape=shapes())
def test_no_request_within_the_limits_needs_more_than_the_forecast(model, shape):
    images = -(-shape.num_visual // model.vision.num_visual) or 1
    limits = Limits(
        max_prompt=max(shape.length(0), images * model.vision.num_visual + shape.num_text),
        max_new_tokens=shape.num_new,
        max_batch=shape.batch,
        max_images=images,
    )
    plan = plan_buffers(model, shape)
    assert plan.size_bytes <= forecast_bytes(model, limits)
    last = max(place.stop for step in plan.steps for _, place in step.live)
    assert plan.size_bytes == last


def test_pruned_stages_have_shorter_caches(model):
    shape = RequestShape(1, 4, 30, 10, 3, 5, (12, 6))
    last = plan_buffers(model, shape).steps[-1].live
    sizes = {name: place.size_bytes for name, place in last}
    assert sizes["0.key"] > sizes["2.key"] > sizes["4.key"]


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 3000)), max_size=60))
def test_the_arena_keeps_places_apart_and_loses_nothing(moves):
    arena = Arena(32 * ALIGNMENT)
    held = []
    for which, size in moves:
        if which < 4 and held:
            arena.give_back(held.pop(which % len(held)))
            continue
        place = arena.take(size)
        if place is not None:
            assert not any(place.overlaps(other) for other in held)
            assert place.offset % ALIGNMENT == 0
            assert place.size_bytes >= size
            assert place.stop <= arena.size_bytes
            held.append(place)
    assert arena.taken == sorted(held)
    for place in held:
        arena.give_back(place)
    whole = arena.take(arena.size_bytes)
    assert whole is not None
    assert whole.size_bytes == arena.size_bytes


def test_a_place_is_given_back_once():
    arena = Arena(1024)
    place = arena.take(10)
    arena.give_back(place)
    with pytest.raises(ValueError, match="taken"):
        arena.give_back(place)
