"""Prompts of any length, method and budget that decode together: rows join and leave.

Each stage holds one padded cache for all rows. A row has a length of its own in every stage, since
every stage saw as many of its tokens as pruning had left; graphs mask what lies behind it.

Dims: B rows that decode, L cache length, G kv heads, D head size.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import DTypeLike, NDArray

from sparsevlm_trt.runtime.chain import Chain
from sparsevlm_trt.runtime.decoding import ChainState
from sparsevlm_trt.runtime.device_array import Allocate, Tensor, zeros
from sparsevlm_trt.runtime.kv_cache import Cache
from sparsevlm_trt.runtime.manifest import Manifest
from sparsevlm_trt.runtime.trace import Clock

__all__ = ["SlotBatch", "StageSlots"]

Floats = NDArray[np.float32]
Index = NDArray[np.int64]

_ROOM = 64  # entries by which a cache grows: rarely, and without much padding


class StageSlots(Cache):
    """One stage's keys and values, `[rows, L, G*D]` each, of which the first B rows are in use.

    Graphs read the rows as they lie, so that a decode step copies nothing but the new entries. L
    follows the longest row, at most 128 entries behind it: a step costs what is in the cache, not
    what would fit.
    """

    def __init__(
        self,
        layers: range,
        num_slots: int,
        width: int,
        dtype: DTypeLike,
        empty: Allocate = np.empty,
    ) -> None:
        """Hold nothing yet.

        Args:
            layers: The model's layer numbers in this stage.
            num_slots: Rows that may join.
            width: Values of one entry, G*D.
            dtype: The cache's type.
            empty: Reserves memory where the engine computes.
        """
        names = [f"{layer}.{part}" for layer in layers for part in ("key", "value")]
        self._past_names = [f"past_key_values.{name}" for name in names]
        self._new_names = [f"new_key_values.{name}" for name in names]
        self._num_slots, self._empty, self._dtype = num_slots, empty, np.dtype(dtype)
        self._lengths: Index = np.zeros(num_slots, np.int64)
        self._buffers = [self._zeros(0, 0, width) for _ in names]
        self.rows = 0

    @property
    def lengths(self) -> Index:
        """Valid entries of each row, `[B]`."""
        return self._lengths[: self.rows]

    @property
    def capacity(self) -> int:
        """Entries that each row has room for, L."""
        return self._buffers[0].shape[1]

    def join(self, entries: Mapping[str, Tensor], length: int, row: int = 0) -> None:
        """Copy a prompt's entries behind the last row.

        Args:
            entries: The views of a cache that `Chain.prefill` filled.
            length: How many of them are valid.
            row: Which row of them.
        """
        self._lengths[self.rows] = length
        self.rows += 1
        self._fit()
        for name, array in entries.items():
            buffer = self._buffers[self._past_names.index(name)]
            buffer[self.rows - 1, :length] = array[row, :length]

    def leave(self, row: int) -> None:
        """Forget a row; the last row takes its place."""
        self.rows -= 1
        if row != self.rows:
            length = self._lengths[row] = self._lengths[self.rows]
            for buffer in self._buffers:
                buffer[row, :length] = buffer[self.rows, :length]
        self._fit()

    def views(self) -> dict[str, Tensor]:
        """Return the rows as graph inputs, `past_key_values.{l}.key` `[B, L, G*D]`."""
        used = [buffer[: self.rows] for buffer in self._buffers]
        return dict(zip(self._past_names, used, strict=True))

    def new_views(self, count: int) -> dict[str, Tensor]:
        """Return places for new entries, as graph outputs `new_key_values.{l}.key`.

        Args:
            count: New entries of each row, S.

        Returns:
            Arrays `[B, S, G*D]`.
        """
        shape = (self.rows, count, self._buffers[0].shape[2])
        return {name: self._empty(shape, self._dtype) for name in self._new_names}

    def advance(self, written: Mapping[str, Tensor]) -> None:
        """Take in the entries that a graph wrote into `new_views`."""
        count = next(iter(written.values())).shape[1]
        starts = self.lengths.copy()
        self._lengths[: self.rows] += count
        self._fit()
        if count == 1 and all(isinstance(buffer, np.ndarray) for buffer in self._buffers):
            places = np.arange(self.rows), starts  # all rows at once
            for name, buffer in zip(self._new_names, self._buffers, strict=True):
                buffer[places] = written[name][0 : self.rows, 0]
            return
        for name, buffer in zip(self._new_names, self._buffers, strict=True):
            for row, start in enumerate(starts.tolist()):
                buffer[row, start : start + count] = written[name][row]

    @property
    def used_bytes(self) -> int:
        """Bytes of the valid entries of all rows."""
        return int(self.lengths.sum()) * self.entry_bytes

    @property
    def reserved_bytes(self) -> int:
        """Bytes allocated."""
        return sum(buffer.nbytes for buffer in self._buffers)

    @property
    def entry_bytes(self) -> int:
        """Bytes of one entry: a key and a value of each layer."""
        return len(self._buffers) * self._buffers[0].shape[2] * self._dtype.itemsize

    def _fit(self) -> None:
        """Make room for one more entry of the longest row; give back what is far too much."""
        longest = int(self.lengths.max()) if self.rows else 0
        wanted = (longest // _ROOM + 1) * _ROOM if self.rows else 0
        reserved = self._buffers[0].shape[0]
        rows = reserved
        if self.rows > reserved:
            rows = min(max(self.rows, 2 * reserved), self._num_slots)
        if rows == reserved and wanted <= self.capacity <= wanted + _ROOM:
            return
        kept, filled = min(wanted, self.capacity), min(self.rows, reserved)
        for number, buffer in enumerate(self._buffers):
            fitting = self._zeros(rows, wanted, buffer.shape[2])
            if filled and kept:
                fitting[:filled, :kept] = buffer[:filled, :kept]
            self._buffers[number] = fitting

    def _zeros(self, *shape: int) -> Tensor:
        return zeros(shape, self._dtype, self._empty)


class SlotBatch:
    """Rows that `Chain.decode` takes one token further in one pass.

    Attributes:
        caches: One for each stage.
        num_slots: Rows that may join.
    """

    def __init__(self, chain: Chain, manifest: Manifest, num_slots: int) -> None:
        """Hold nothing yet.

        Args:
            chain: Runs the graphs.
            manifest: Describes the bundle.
            num_slots: Rows that may join.
        """
        model = manifest.model
        width = model.num_kv_heads * model.head_dim
        self.num_slots = num_slots
        self.caches = [
            StageSlots(
                range(stage.first, stage.stop), num_slots, width, model.kv_dtype, chain.empty
            )
            for stage in manifest.stages
        ]
        self._chain = chain
        self._lengths: Index = np.zeros(num_slots, np.int64)  # pruned tokens among them
        self._compact: NDArray[np.bool_] = np.zeros(num_slots, np.bool_)

    @property
    def rows(self) -> int:
        """Rows that joined and have not left."""
        return self.caches[0].rows

    def join(self, state: ChainState, row: int = 0) -> None:
        """Take in a prompt that was read, as the last row.

        Args:
            state: From `Chain.prefill`; it need not have room for new tokens.
            row: Which row of it.

        Raises:
            ValueError: All slots are taken.
        """
        self._count(state, self.rows)
        for slots, cache in zip(self.caches, state.caches, strict=True):
            slots.join(cache.views(), cache.length, row)

    def move(self, places: Sequence[tuple[ChainState, int]]) -> None:
        """Take in rows of prompts that were read together, in order; their states end here.

        Each stage's caches go as soon as their rows have been copied: all would take twice as much
        memory for a moment.

        Args:
            places: States from `Chain.prefill`, and which row of each.

        Raises:
            ValueError: More rows than free slots.
        """
        for row, (state, _) in enumerate(places, self.rows):
            self._count(state, row)
        states = {id(state): state for state, _ in places}
        for slots in self.caches:
            caches = {key: state.caches.pop(0) for key, state in states.items()}
            views = {key: cache.views() for key, cache in caches.items()}
            for state, row in places:
                slots.join(views[id(state)], caches[id(state)].length, row)

    def _count(self, state: ChainState, row: int) -> None:
        """Note what joins as a row; ValueError where all slots are taken."""
        if row == self.num_slots:
            raise ValueError(f"slots | got row {row + 1} | expected {self.num_slots}")
        self._lengths[row], self._compact[row] = state.length, state.compact

    def leave(self, row: int) -> None:
        """Free a row; the last row takes its place."""
        last = self.rows - 1
        self._lengths[row], self._compact[row] = self._lengths[last], self._compact[last]
        for slots in self.caches:
            slots.leave(row)

    def clear(self) -> None:
        """Free all rows."""
        while self.rows:
            self.leave(self.rows - 1)

    def decode(self, tokens: Index, clock: Clock) -> Floats:
        """Read one more token of each row.

        Args:
            tokens: `[B]` int64, in the order of the rows.
            clock: Takes the time of each graph.

        Returns:
            Logits `[B, vocab]`.
        """
        return self._chain.decode(tokens, self, clock)

    def positions(self, stage: int) -> Index:
        """Where each row's next token stands in a stage, `[B, 1]`; see `Decoding`."""
        own, whole = self.caches[stage].lengths, self._lengths[: self.rows]
        return np.where(self._compact[: self.rows], own, whole)[:, None]

    def step(self) -> None:
        """Count a token that was read; see `Decoding`."""
        self._lengths[: self.rows] += 1
