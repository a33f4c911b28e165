"""The keys and values that one stage remembers, in buffers allocated once."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import DTypeLike, NDArray

from sparsevlm_trt.runtime.device_array import Allocate, Tensor

__all__ = ["ROOM", "Cache", "HeldCache", "HoldsCaches", "PromptCache", "StageCache"]

Index = NDArray[np.int64]

ROOM = 64  # entries by which a cache of several rows grows: rarely, and without much padding


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

    def __init__(self, layers: Sequence[int]) -> None:
        """Name the entries of the model's layers in this stage."""
        # The names are made once: a decode step looks up hundreds of them.
        names = [f"{layer}.{part}" for layer in layers for part in ("key", "value")]
        self._past_names = [f"past_key_values.{name}" for name in names]
        self._new_names = [f"new_key_values.{name}" for name in names]

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


class PromptCache(Cache):
    """What a stage remembers of a prompt, or of a batch of equal layout.

    Attributes:
        length: Entries used.
        capacity: Entries that may be kept.
    """

    def __init__(self, layers: Sequence[int], batch: int, capacity: int) -> None:
        """Hold nothing yet.

        Args:
            layers: The model's layer numbers in this stage.
            batch: Rows, B.
            capacity: Entries that may be kept.
        """
        super().__init__(layers)
        self.length, self.capacity = 0, capacity
        self._batch = batch

    @property
    def lengths(self) -> Index:
        """Valid entries of each row, `[B]`."""
        return np.full(self._batch, self.length, np.int64)

    @property
    def nbytes(self) -> int:
        """Bytes of the used entries."""
        return self._batch * self.length * self.entry_bytes

    def _stop(self, count: int) -> int:
        """Entries with `count` new ones; ValueError where they do not fit."""
        stop = self.length + count
        if stop > self.capacity:
            raise ValueError(
                f"cache | got {count} entries behind {self.length} | expected {self.capacity} "
                "in all at most | reserve more"
            )
        return stop


class StageCache(PromptCache):
    """One prompt's: a buffer `[1, capacity, G*D]` for each layer's keys and for its values.

    The used part is contiguous: graphs read it as it lies and write the new entries right behind
    it, so that a decode step copies nothing.
    """

    def __init__(
        self,
        layers: Sequence[int],
        capacity: int,
        width: int,
        dtype: DTypeLike,
        empty: Allocate = np.empty,
    ) -> None:
        """Reserve the buffers; the system commits their pages as they are first written.

        Args:
            layers: The model's layer numbers in this stage.
            capacity: Entries that fit in.
            width: Values of one entry, G*D.
            dtype: The cache's type.
            empty: Reserves them where the engine computes.
        """
        super().__init__(layers, 1, capacity)
        self._buffers = [empty((1, capacity, width), dtype) for _ in self._past_names]

    def views(self) -> dict[str, Tensor]:
        """Return the used entries, `past_key_values.{l}.key` `[1, length, G*D]`."""
        used = [buffer[:, : self.length] for buffer in self._buffers]
        return dict(zip(self._past_names, used, strict=True))

    def new_views(self, count: int) -> dict[str, Tensor]:
        """Return where the next entries go, as graph outputs `new_key_values.{l}.key`.

        Args:
            count: New entries, S.

        Returns:
            Parts of the buffers, `[1, S, G*D]`.

        Raises:
            ValueError: They do not fit.
        """
        stop = self._stop(count)
        views = [buffer[:, self.length : stop] for buffer in self._buffers]
        return dict(zip(self._new_names, views, strict=True))

    def advance(self, written: Mapping[str, Tensor]) -> None:
        """Count the entries that a graph wrote into `new_views` as used."""
        self.length += next(iter(written.values())).shape[1]

    @property
    def entry_bytes(self) -> int:
        """Bytes of one entry: a key and a value of each layer."""
        return sum(buffer.shape[2] * buffer.dtype.itemsize for buffer in self._buffers)
