"""One stage's keys and values of rows that decode together, in one padded cache.

Dims: B rows that decode, L cache length, G kv heads, D head size.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import DTypeLike, NDArray

from sparsevlm_trt.runtime.device_array import Allocate, Tensor, zeros
from sparsevlm_trt.runtime.kv_cache import ROOM, Cache

__all__ = ["StageSlots"]

Index = NDArray[np.int64]


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
        super().__init__(layers)
        self._num_slots, self._empty, self._dtype = num_slots, empty, np.dtype(dtype)
        self._lengths: Index = np.zeros(num_slots, np.int64)
        self._buffers = [self._zeros(0, 0, width) for _ in self._past_names]
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
        wanted = (longest // ROOM + 1) * ROOM if self.rows else 0
        reserved = self._buffers[0].shape[0]
        rows = reserved
        if self.rows > reserved:
            rows = min(max(self.rows, 2 * reserved), self._num_slots)
        if rows == reserved and wanted <= self.capacity <= wanted + ROOM:
            return
        kept, filled = min(wanted, self.capacity), min(self.rows, reserved)
        for number, buffer in enumerate(self._buffers):
            fitting = self._zeros(rows, wanted, buffer.shape[2])
            if filled and kept:
                fitting[:filled, :kept] = buffer[:filled, :kept]
            self._buffers[number] = fitting

    def _zeros(self, *shape: int) -> Tensor:
        return zeros(shape, self._dtype, self._empty)
