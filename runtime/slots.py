"""Prompts of any length, method and budget that decode together: rows join and leave.

Each stage holds one padded cache for all rows. A row has a length of its own in every stage, since
every stage saw as many of its tokens as pruning had left; graphs mask what lies behind it.

Dims: B rows that decode, L cache length, G kv heads, D head size.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from sparsevlm_trt.runtime.chain import Chain
from sparsevlm_trt.runtime.decoding import ChainState
from sparsevlm_trt.runtime.manifest import Manifest
from sparsevlm_trt.runtime.stage_slots import StageSlots
from sparsevlm_trt.runtime.trace import Clock

__all__ = ["SlotBatch"]

Floats = NDArray[np.float32]
Index = NDArray[np.int64]


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
