"""The keys and values that one stage remembers, in buffers allocated once."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import DTypeLike, NDArray

from sparsevlm_trt.runtime.device_array import Allocate, Tensor, contiguous

__all__ = ["Cache", "HeldCache", "HoldsCaches", "StageCache"]

Index = NDArray[np.int64]


class HeldCache(Protocol):
    """A stage's keys and values that the engine itself keeps, for one prompt.

    Attributes:
        length: Entries used.
        capacity: Entries that may be kept.
    """

    length: int
    capacity: int

    @property
    def lengths(self) -> Index:
        """Entries used of each row, `[B]`."""

    @property
    def entry_bytes(self) -> int:
        """Bytes of one entry of one row: a key and a value of each layer."""

    def run(self, inputs: Mapping[str, Any], into: Mapping[str, Any]) -> None:
        """Run the stage on new tokens and keep their keys and values behind the others.

        Args:
            inputs: The stage's inputs, by name, without the past.
            into: Where its outputs go, without the new entries; see `Runner.run`.

        Raises:
            ValueError: The new entries do not fit.
            RunnerError: The engine failed.
        """

    def views(self) -> dict[str, Any]:
        """Return copies of the used entries, `past_key_values.{l}.key` `[B, length, G*D]`."""

    @property
    def nbytes(self) -> int:
        """Bytes of the used entries."""

    @property
    def capacity_bytes(self) -> int:
        """Bytes of as many entries as fit."""


@runtime_checkable
class HoldsCaches(Protocol):
    """What a runner has that keeps caches itself."""

    def open_cache(
        self, graph: str, batch: int, capacity: int, dtype: np.dtype[Any]
    ) -> HeldCache | None:
        """Open the cache of a stage for one prompt; None where this stage has none.

        Args:
            graph: The stage's graph, loaded.
            batch: Rows, B.
            capacity: Entries that fit in.
            dtype: The cache's type.
        """


class Cache(ABC):
    """What a stage remembers of its rows, as graphs read and extend it."""

    @property
    @abstractmethod
    def lengths(self) -> Index:
        """Valid entries of each row, `[B]`."""

    @property
    @abstractmethod
    def entry_bytes(self) -> int:
        """Bytes of one entry of one row: a key and a value of each layer."""

    @abstractmethod
    def views(self) -> dict[str, Tensor]:
        """Return all rows as graph inputs, `past_key_values.{l}.key` `[B, L, G*D]`."""

    @abstractmethod
    def new_views(self, count: int) -> dict[str, Tensor]:
        """Return places for `count` new entries, as graph outputs `[B, count, G*D]`."""

    @abstractmethod
    def advance(self, written: Mapping[str, Tensor]) -> None:
        """Take in the entries that a graph wrote into `new_views`."""


class StageCache(Cache):
    """One buffer `[B, capacity, G*D]` for each layer's keys and for its values.

    The used part of a batch-1 buffer is contiguous: graphs read it as it lies and write the new
    entries right behind it, so that a decode step copies nothing. In a larger batch the rows are
    apart, so both ways are copies of the used part, within the device: batches decode in
    `slots.SlotBatch` instead.
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
        """Reserve the buffers; the system commits their pages as they are first written.

        Args:
            layers: The model's layer numbers in this stage.
            batch: Rows, B.
            capacity: Entries that fit in.
            width: Values of one entry, G*D.
            dtype: The cache's type.
            empty: Reserves them where the engine computes.
        """
        self.length = 0
        self.capacity = capacity
        self._empty = empty
        self._buffers: dict[str, Tensor] = {
            f"{layer}.{part}": empty((batch, capacity, width), dtype)
            for layer in layers
            for part in ("key", "value")
        }
        # The names are made once: a decode step looks up hundreds of them.
        self._past_names = [f"past_key_values.{name}" for name in self._buffers]
        self._new_names = [f"new_key_values.{name}" for name in self._buffers]
        self._in_place = batch == 1
        self._batch = batch

    @property
    def lengths(self) -> Index:
        """Valid entries of each row, `[B]`."""
        return np.full(self._batch, self.length, np.int64)

    def used(self) -> dict[str, Tensor]:
        """Return the used entries by graph input, `[B, length, G*D]`, as they lie."""
        used = [buffer[:, : self.length] for buffer in self._buffers.values()]
        return dict(zip(self._past_names, used, strict=True))

    def views(self) -> dict[str, Tensor]:
        """Return the used entries as graph inputs, `past_key_values.{l}.key` `[B, length, G*D]`.

        Views for batch 1, contiguous copies otherwise.
        """
        used = self.used()
        if self._in_place:
            return used
        return {name: contiguous(view) for name, view in used.items()}

    def new_views(self, count: int) -> dict[str, Tensor]:
        """Return where the next entries go, as graph outputs `new_key_values.{l}.key`.

        Args:
            count: New entries, S.

        Returns:
            Arrays `[B, S, G*D]`: the buffers themselves for batch 1, scratch arrays otherwise.

        Raises:
            ValueError: They do not fit.
        """
        stop = self.length + count
        if stop > self.capacity:
            raise ValueError(
                f"cache | got {count} entries behind {self.length} | expected {self.capacity} "
                "in all at most | reserve more"
            )
        views = [buffer[:, self.length : stop] for buffer in self._buffers.values()]
        if not self._in_place:
            views = [self._empty(view.shape, view.dtype) for view in views]
        return dict(zip(self._new_names, views, strict=True))

    def advance(self, written: Mapping[str, Tensor]) -> None:
        """Count the entries that a graph wrote into `new_views` as used.

        Args:
            written: What `new_views` returned, filled.
        """
        count = next(iter(written.values())).shape[1]
        if not self._in_place:
            for name, buffer in zip(self._new_names, self._buffers.values(), strict=True):
                buffer[:, self.length : self.length + count] = written[name]
        self.length += count

    @property
    def entry_bytes(self) -> int:
        """Bytes of one entry of one row: a key and a value of each layer."""
        return sum(buffer.shape[2] * buffer.dtype.itemsize for buffer in self._buffers.values())

    @property
    def nbytes(self) -> int:
        """Bytes of the used entries."""
        return self._batch * self.length * self.entry_bytes

    @property
    def capacity_bytes(self) -> int:
        """Bytes reserved."""
        return sum(buffer.nbytes for buffer in self._buffers.values())
