"""The keys and values that one stage remembers of a batch of prompts of equal layout."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import DTypeLike

from sparsevlm_trt.runtime.device_array import Allocate, Tensor, zeros
from sparsevlm_trt.runtime.kv_cache import ROOM, PromptCache

__all__ = ["BatchCache"]


class BatchCache(PromptCache):
    """Arrays `[B, L, G*D]`, read as they lie: L is the length, or up to 64 entries more.

    What a graph makes of the prompts is kept as it is. The first decode step moves it to where
    there is room, and every 64th after it; graphs mask the room.
    """

    def __init__(
        self,
        layers: Sequence[int],
        batch: int,
        capacity: int,
        width: int,
        dtype: DTypeLike,
        empty: Allocate = np.empty,
    ) -> None:
        """Hold nothing yet.

        Args:
            layers: The model's layer numbers in this stage.
            batch: Rows, B.
            capacity: Entries that may be kept of each row.
            width: Values of one entry, G*D.
            dtype: The cache's type.
            empty: Reserves memory where the engine computes.
        """
        super().__init__(layers, batch, capacity)
        self._width, self._dtype, self._empty = width, np.dtype(dtype), empty
        self._buffers = [empty((batch, 0, width), dtype) for _ in self._past_names]

    def views(self) -> dict[str, Tensor]:
        """Return all rows as graph inputs, `past_key_values.{l}.key` `[B, L, G*D]`."""
        return dict(zip(self._past_names, self._buffers, strict=True))

    def new_views(self, count: int) -> dict[str, Tensor]:
        """Return places for `count` new entries, as graph outputs `[B, count, G*D]`.

        Raises:
            ValueError: They do not fit.
        """
        self._stop(count)
        shape = (self._batch, count, self._width)
        return {name: self._empty(shape, self._dtype) for name in self._new_names}

    def advance(self, written: Mapping[str, Tensor]) -> None:
        """Take in the entries that a graph wrote into `new_views`."""
        count = next(iter(written.values())).shape[1]
        start, stop = self.length, self._stop(count)
        for number, name in enumerate(self._new_names):
            if start == 0:
                self._buffers[number] = written[name]
                continue
            if stop > self._buffers[number].shape[1]:
                self._buffers[number] = self._with_room(self._buffers[number], stop)
            self._buffers[number][:, start:stop] = written[name]
        self.length = stop

    @property
    def entry_bytes(self) -> int:
        """Bytes of one entry of one row: a key and a value of each layer."""
        return len(self._buffers) * self._width * self._dtype.itemsize

    def _with_room(self, buffer: Tensor, stop: int) -> Tensor:
        """Copy what is used to where `stop` entries fit, and some more."""
        room = min(self.capacity, stop + ROOM - 1)
        fitting = zeros((self._batch, room, self._width), self._dtype, self._empty)
        fitting[:, : self.length] = buffer[:, : self.length]
        return fitting
