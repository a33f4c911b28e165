"""Requests of different lengths and budgets that decode together: one padded cache per stage.

Dims: B rows that decode, L cache length, G kv heads, D head size.
"""

from __future__ import annotations

import time

import numpy as np
from numpy.typing import DTypeLike, NDArray

from sparsevlm_trt.runtime.chain import ChainState
from sparsevlm_trt.runtime.kv_cache import HeldCache, StageCache
from sparsevlm_trt.runtime.manifest import Manifest
from sparsevlm_trt.runtime.runner import Array, Runner
from sparsevlm_trt.runtime.trace import Clock

__all__ = ["SlotBatch", "StageSlots"]

Floats = NDArray[np.float32]
Index = NDArray[np.int64]

_ROOM = 64  # entries by which a cache grows: rarely, and without much padding


class StageSlots:
    """One stage's keys and values, `[slots, L, G*D]` each, of which the first rows are in use.

    Graphs read the rows as they lie: L is the same for all of them, and what a row does not use
    is masked by its length. Only growing copies.
    """

    def __init__(self, layers: range, num_slots: int, width: int, dtype: DTypeLike) -> None:
        """Hold nothing yet.

        Args:
            layers: The model's layer numbers in this stage.
            num_slots: Rows that fit in.
            width: Values of one entry, G*D.
            dtype: The model's type.
        """
        names = [f"{layer}.{part}" for layer in layers for part in ("key", "value")]
        self.lengths: Index = np.zeros(num_slots, np.int64)
        # Zeros: a masked entry still meets a weight of 0, and 0 times garbage may be NaN.
        self._buffers: list[Array] = [np.zeros((num_slots, 0, width), dtype) for _ in names]
        self._past_names = [f"past_key_values.{name}" for name in names]
        self._new_names = [f"new_key_values.{name}" for name in names]

    @property
    def capacity(self) -> int:
        """Entries that each row has room for, L."""
        return int(self._buffers[0].shape[1])

    def put(self, row: int, cache: StageCache | HeldCache) -> None:
        """Copy a prompt's cache of batch 1 into a row."""
        used = cache.views()
        self.lengths[row] = cache.length
        self._fit(self.lengths[: row + 1])
        for name, buffer in zip(self._past_names, self._buffers, strict=True):
            buffer[row, : cache.length] = np.asarray(used[name])[0]

    def move(self, source: int, target: int) -> None:
        """Copy one row over another."""
        length = self.lengths[target] = self.lengths[source]
        for buffer in self._buffers:
            buffer[target, :length] = buffer[source, :length]

    def views(self, rows: int) -> dict[str, Array]:
        """Return the first rows as graph inputs, `past_key_values.{l}.key` `[B, L, G*D]`."""
        used = [buffer[:rows] for buffer in self._buffers]
        return dict(zip(self._past_names, used, strict=True))

    def append(self, rows: int, outputs: dict[str, Array]) -> None:
        """Write one entry of each of the first rows, `new_key_values.{l}.key` `[B, 1, G*D]`."""
        if int(self.lengths[:rows].max()) >= self.capacity:
            self._fit(self.lengths[:rows])
        places = np.arange(rows), self.lengths[:rows].copy()
        for name, buffer in zip(self._new_names, self._buffers, strict=True):
            buffer[places] = outputs[name][:, 0]
        self.lengths[:rows] += 1

    def used_bytes(self, rows: int) -> int:
        """Bytes of the entries that the first rows use."""
        entry: int = sum(buffer.itemsize * buffer.shape[2] for buffer in self._buffers)
        return int(self.lengths[:rows].sum()) * entry

    @property
    def reserved_bytes(self) -> int:
        """Bytes allocated."""
        return sum(buffer.nbytes for buffer in self._buffers)

    def _fit(self, lengths: Index) -> None:
        """Make room for one more entry of the longest row; give back what is far too much."""
        wanted = (int(lengths.max()) // _ROOM + 1) * _ROOM
        if wanted <= self.capacity <= 2 * wanted:
            return
        kept = min(wanted, self.capacity)
        for number, buffer in enumerate(self._buffers):
            grown = np.zeros((buffer.shape[0], wanted, buffer.shape[2]), buffer.dtype)
            grown[:, :kept] = buffer[:, :kept]
            self._buffers[number] = grown


class SlotBatch:
    """Decodes one token of every row in one pass; rows join and leave between passes."""

    def __init__(self, manifest: Manifest, runner: Runner, num_slots: int) -> None:
        """Take a manifest, and a runner that has its graphs loaded."""
        model = manifest.model
        width = model.num_kv_heads * model.head_dim
        self._graphs = [stage.graph for stage in manifest.stages]
        self._runner = runner
        self.num_slots = num_slots
        self.rows = 0
        self.stages = [
            StageSlots(range(stage.first, stage.stop), num_slots, width, model.dtype)
            for stage in manifest.stages
        ]
        self._read: Index = np.zeros(num_slots, np.int64)  # tokens read, dropped ones among them
        self._compact: NDArray[np.bool_] = np.zeros(num_slots, np.bool_)

    def join(self, state: ChainState) -> None:
        """Take in a prompt of batch 1 that was read, as the last row.

        Raises:
            ValueError: All slots are taken.
        """
        if self.rows == self.num_slots:
            raise ValueError(f"slots | got request {self.rows + 1} | expected {self.num_slots}")
        row = self.rows
        for stage, cache in zip(self.stages, state.caches, strict=True):
            stage.put(row, cache)
        self._read[row], self._compact[row] = state.length, state.compact
        self.rows += 1

    def leave(self, row: int) -> None:
        """Free a row; the last row takes its place."""
        last = self.rows - 1
        if row != last:
            for stage in self.stages:
                stage.move(last, row)
            self._read[row], self._compact[row] = self._read[last], self._compact[last]
        self.rows = last

    def decode(self, tokens: Index, clock: Clock) -> Floats:
        """Read one more token of each row.

        Args:
            tokens: `[B]` int64, in the order of the rows.
            clock: Takes the time of each graph.

        Returns:
            Logits `[B, vocab]`.
        """
        rows = self.rows
        nothing: Index = np.empty((rows, 0), np.int64)
        hidden = self._run("embed", {"input_ids": tokens[:, None]}, clock)["inputs_embeds"]
        for number, (graph, stage) in enumerate(zip(self._graphs, self.stages, strict=True)):
            lengths = stage.lengths[:rows]
            inputs = stage.views(rows)
            inputs["hidden_states"] = hidden
            inputs["past_lengths"] = lengths.copy()
            inputs["position_ids"] = np.where(self._compact[:rows], lengths, self._read[:rows])[
                :, None
            ]
            if number < len(self._graphs) - 1:
                inputs["rater_index"] = inputs["visual_index"] = nothing
            outputs = self._run(graph, inputs, clock)
            stage.append(rows, outputs)
            hidden = outputs["last_hidden_state"]
        self._read[:rows] += 1
        logits: Floats = self._run("head", {"hidden_states": hidden[:, -1]}, clock)["logits"]
        return logits

    def _run(self, graph: str, inputs: dict[str, Array], clock: Clock) -> dict[str, Array]:
        """Run a graph and take its time."""
        started = time.perf_counter()
        outputs = self._runner.run(graph, inputs)
        clock.add(graph, started)
        return {name: np.asarray(output) for name, output in outputs.items()}
