"""What is remembered of an activation: its extent, some of its rows, its second moments.

Dims: S rows (tokens) of one call, K channels.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["Statistics"]

Floats = NDArray[np.float32]
MOST_ROWS = 192  # drawn evenly from all rows that were seen
MOST_HEAVY_ROWS = 8  # those of the largest magnitude, besides


class Statistics:
    """Grows by the rows of every call; the same calls in the same order give the same result.

    Attributes:
        largest: Largest magnitude of each channel, `[K]`.
        num_rows: Rows seen.
        num_bad: Rows that held NaN or infinity; these count for nothing else.
        moments: Sum of the outer products of all rows, `[K, K]`; None unless asked for.
    """

    def __init__(self, num_channels: int, *, moments: bool) -> None:
        """Start with nothing seen."""
        self.largest: Floats = np.zeros(num_channels, np.float32)
        self.num_rows = self.num_bad = 0
        shape = (num_channels, num_channels)
        self.moments: Floats | None = np.zeros(shape, np.float32) if moments else None
        self._random = np.random.default_rng(0)
        self._rows: Floats = np.empty((0, num_channels), np.float32)
        self._draws: NDArray[np.float64] = np.empty(0)
        self._heavy: Floats = np.empty((0, num_channels), np.float32)

    def add(self, activation: NDArray[np.generic]) -> None:
        """See one call's activation `[..., K]`."""
        rows = activation.reshape(-1, activation.shape[-1]).astype(np.float32)
        good = np.isfinite(rows).all(axis=1)
        self.num_bad += int((~good).sum())
        rows = rows[good]
        if not len(rows):
            return
        self.num_rows += len(rows)
        magnitude = np.abs(rows)
        np.maximum(self.largest, magnitude.max(axis=0), out=self.largest)
        if self.moments is not None:
            self.moments += rows.T @ rows
        draws = np.concatenate([self._draws, self._random.random(len(rows))])
        chosen = np.argsort(draws, kind="stable")[:MOST_ROWS]
        self._rows = np.concatenate([self._rows, rows])[chosen]
        self._draws = draws[chosen]
        heavy = np.argsort(-magnitude.max(axis=1), kind="stable")[:MOST_HEAVY_ROWS]
        both = np.concatenate([self._heavy, rows[heavy]])
        order = np.argsort(-np.abs(both).max(axis=1), kind="stable")[:MOST_HEAVY_ROWS]
        self._heavy = both[order]

    @property
    def rows(self) -> Floats:
        """Rows to try a quantiser on: some of all, and the heaviest, `[n, K]`."""
        return np.concatenate([self._rows, self._heavy])
