"""Where every tensor of a request lies on the device, step by step, before anything runs.

Pure arithmetic: no GPU, no library. A request is a row of steps (graphs); a tensor lives from the
step that makes it to the last one that reads it, and its place is given to others afterwards. Keys
and values live from their stage's prefill to the end. A stage reads the used part of each cache
and writes its new entries right behind it, in the same buffer.

Dims: B batch, S tokens of a step, V visual tokens, T text tokens, R raters, H heads, N hidden
size, W values of one cache entry, L cache length.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from sparsevlm_trt.runtime.manifest import Manifest
from sparsevlm_trt.runtime.tensorrt.arena import Arena, Place
from sparsevlm_trt.runtime.tensorrt.request_bytes import (
    FLOAT_BYTES,
    INDEX_BYTES,
    RequestShape,
    cache_bytes,
    capacity_of,
    entry_bytes,
    hidden_bytes,
    request_bytes,
    shown_bytes,
    votes_bytes,
)

__all__ = ["BufferPlan", "Step", "Use", "plan_buffers"]

_SHOWN = ("queries", "keys")  # of a stage's last layer, for the raters' rows


@dataclass(frozen=True, slots=True)
class Use:
    """A step's reading or writing of a part of a buffer: `place` counts from the block's start."""

    tensor: str
    buffer: str
    place: Place


@dataclass(frozen=True, slots=True)
class Step:
    """One graph of a request.

    Attributes:
        graph: Its name.
        reads: Its inputs on the device.
        writes: Its outputs there.
        live: All buffers that hold something while it runs.
    """

    graph: str
    reads: tuple[Use, ...]
    writes: tuple[Use, ...]
    live: tuple[tuple[str, Place], ...]


@dataclass(frozen=True, slots=True)
class BufferPlan:
    """The steps of a request, and the bytes that hold them all."""

    steps: tuple[Step, ...]
    size_bytes: int


@dataclass(slots=True)
class _Planner:
    """Follows a request and keeps the books."""

    manifest: Manifest
    shape: RequestShape
    arena: Arena
    places: dict[str, Place] = field(default_factory=dict)
    steps: list[Step] = field(default_factory=list)

    def take(self, name: str, size_bytes: int) -> None:
        """Reserve a buffer."""
        place = self.arena.take(size_bytes)
        assert place is not None  # the arena is as large as the forecast
        self.places[name] = place

    def free(self, *names: str) -> None:
        """Give buffers back."""
        for name in names:
            self.arena.give_back(self.places.pop(name))

    def use(self, tensor: str, buffer: str, start: int = 0, size: int | None = None) -> Use:
        """Describe a part of a buffer, from byte `start` on."""
        whole = self.places[buffer]
        length = whole.size_bytes - start if size is None else size
        assert 0 <= start <= start + length <= whole.size_bytes
        return Use(tensor, buffer, Place(whole.offset + start, length))

    def step(self, graph: str, reads: list[Use], writes: list[Use]) -> None:
        """Note a step."""
        live = tuple(sorted(self.places.items()))
        self.steps.append(Step(graph, tuple(reads), tuple(writes), live))


def plan_buffers(manifest: Manifest, shape: RequestShape) -> BufferPlan:
    """Plan one request: prefill, then `num_new` - 1 decode steps.

    Args:
        manifest: Of the bundle.
        shape: The request's sizes.
    """
    planner = _Planner(manifest, shape, Arena(request_bytes(manifest, shape)))
    _prefill(planner)
    for number in range(shape.num_new - 1):
        _decode(planner, number)
    return BufferPlan(tuple(planner.steps), planner.arena.peak_bytes)


def _prefill(planner: _Planner) -> None:
    manifest, shape = planner.manifest, planner.shape
    whole = shape.length(0)
    planner.take("hidden", hidden_bytes(manifest, shape, whole))
    planner.take("positions", shape.batch * whole * INDEX_BYTES)
    if manifest.vision is not None and shape.num_visual:
        planner.take("features", hidden_bytes(manifest, shape, shape.num_visual))
        planner.step("vision", [], [planner.use("image_features", "features")])
        planner.free("features")  # joined into the prompt
    planner.step("embed", [], [planner.use("inputs_embeds", "hidden")])
    for number, stage in enumerate(manifest.stages):
        capacity = cache_bytes(manifest, shape, number)
        for name in _cache_names(planner, number):
            planner.take(name, capacity)
        length = shape.length(number)
        is_last = number == len(manifest.stages) - 1
        prunes = not is_last and shape.length(number + 1) < length
        planner.take("result", hidden_bytes(manifest, shape, length))
        reads = [planner.use("hidden_states", "hidden"), planner.use("position_ids", "positions")]
        writes = [planner.use("last_hidden_state", "result")]
        if prunes:
            for name, size in zip(_SHOWN, shown_bytes(manifest, shape, length), strict=True):
                planner.take(name, size)
                writes.append(planner.use(name, name))
        writes += _new_entries(planner, number, 0, length)
        planner.step(stage.graph, reads, writes)
        planner.free("hidden")
        planner.places["hidden"] = planner.places.pop("result")
        if prunes:
            _prune(planner, number)
    _head(planner)
    planner.free("hidden", "positions")


def _prune(planner: _Planner, number: int) -> None:
    """The next sequence is made beside the old one, which goes."""
    manifest, shape = planner.manifest, planner.shape
    planner.take("votes", votes_bytes(manifest, shape))
    reads = [planner.use(name, name) for name in _SHOWN]
    planner.step("rater_rows", reads, [planner.use("rater_attention", "votes")])
    planner.free(*_SHOWN)
    length = shape.length(number + 1)
    planner.take("next", hidden_bytes(manifest, shape, length))
    planner.take("next_positions", shape.batch * length * INDEX_BYTES)
    planner.take("decisions", shape.batch * shape.length(0) * 3 * INDEX_BYTES)
    method = next(name for name in manifest.graphs if name.startswith("prune_"))
    reads = [
        planner.use("hidden_states", "hidden"),
        planner.use("position_ids", "positions"),
        planner.use("rater_attention", "votes"),
    ]
    writes = [
        planner.use("next_hidden_states", "next"),
        planner.use("next_position_ids", "next_positions"),
        planner.use("kept_index", "decisions"),
    ]
    planner.step(method, reads, writes)
    planner.free("hidden", "positions", "decisions", "votes")
    planner.places["hidden"] = planner.places.pop("next")
    planner.places["positions"] = planner.places.pop("next_positions")


def _decode(planner: _Planner, number: int) -> None:
    """One more token: a row through every stage, each cache longer by an entry."""
    manifest, shape = planner.manifest, planner.shape
    row = hidden_bytes(manifest, shape, 1)
    planner.take("hidden", row)
    planner.take("positions", shape.batch * INDEX_BYTES)
    planner.step("embed", [], [planner.use("inputs_embeds", "hidden")])
    for index, stage in enumerate(manifest.stages):
        length = shape.length(index) + number
        planner.take("result", row)
        reads = [planner.use("hidden_states", "hidden"), planner.use("position_ids", "positions")]
        reads += _used_entries(planner, index, length)
        writes = [planner.use("last_hidden_state", "result")]
        writes += _new_entries(planner, index, length, 1)
        planner.step(stage.graph, reads, writes)
        planner.free("hidden")
        planner.places["hidden"] = planner.places.pop("result")
    _head(planner)
    planner.free("hidden", "positions")


def _head(planner: _Planner) -> None:
    manifest, shape = planner.manifest, planner.shape
    planner.take("logits", shape.batch * manifest.model.vocab_size * FLOAT_BYTES)
    reads = [planner.use("hidden_states", "hidden")]
    planner.step("head", reads, [planner.use("logits", "logits")])
    planner.free("logits")


def _used_entries(planner: _Planner, number: int, length: int) -> list[Use]:
    """The caches of a stage as it reads them: row by row, the first `length` entries."""
    return list(_entries(planner, number, 0, length, "past_key_values"))


def _new_entries(planner: _Planner, number: int, length: int, count: int) -> list[Use]:
    """Where a stage writes: `count` entries behind the first `length` of each row."""
    return list(_entries(planner, number, length, count, "new_key_values"))


def _entries(planner: _Planner, number: int, first: int, count: int, tensor: str) -> Iterator[Use]:
    width = entry_bytes(planner.manifest)
    row = capacity_of(planner.shape, number) * width
    for name in _cache_names(planner, number):
        for index in range(planner.shape.batch):
            start = index * row + first * width
            yield planner.use(f"{tensor}.{name}", name, start, count * width)


def _cache_names(planner: _Planner, number: int) -> list[str]:
    stage = planner.manifest.stages[number]
    layers = range(stage.first, stage.stop)
    return [f"{layer}.{part}" for layer in layers for part in ("key", "value")]
