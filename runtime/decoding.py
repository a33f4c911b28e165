"""What has been read and waits for its next token."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from sparsevlm_trt.runtime.kv_cache import Cache, HeldCache, PromptCache
from sparsevlm_trt.runtime.trace import StageTrace

__all__ = ["ChainState", "Decoding"]

Index = NDArray[np.int64]


class Decoding(Protocol):
    """Rows that were read and wait for their next token."""

    @property
    def caches(self) -> Sequence[Cache | HeldCache]:
        """One for each stage."""

    def positions(self, stage: int) -> Index:
        """Where each row's next token stands in a stage, `[B, 1]` int64."""

    def step(self) -> None:
        """Count a token that every row read."""


@dataclass(slots=True)
class ChainState:
    """A prompt that has been read, ready for the next token; or a batch of equal layout.

    Attributes:
        caches: One for each stage.
        length: The position that comes next where positions are the prompt's own: its tokens as
            given, and all decode steps since.
        compact: Whether each stage decodes at its own cache length.
        prunes: The prune steps of each row of the batch.
    """

    caches: list[PromptCache | HeldCache]
    length: int
    compact: bool
    prunes: list[list[StageTrace]]

    def positions(self, stage: int) -> Index:
        """Where each row's next token stands in a stage, `[B, 1]`; see `Decoding`."""
        lengths = self.caches[stage].lengths
        return (lengths if self.compact else np.full_like(lengths, self.length))[:, None]

    def step(self) -> None:
        """Count a token that was read; see `Decoding`."""
        self.length += 1
