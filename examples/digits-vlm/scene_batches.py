"""Batches of scenes in a fixed order, drawn by worker processes where there are cores to spare."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from data import DigitSamples, Scene, make_scene
from torch.utils.data import DataLoader, Dataset


@dataclass(frozen=True, slots=True)
class SceneBatches(Dataset[list[Scene]]):
    """Scenes `[first, first + count)` of a split, `size` at a time; the last batch may be short.

    Attributes:
        samples: The handwritten samples of the split.
        seed: Seed of the scenes.
        split: "train" or "heldout".
        first: Index of the first scene.
        count: Number of scenes.
        size: Scenes in a batch.
    """

    samples: DigitSamples
    seed: int
    split: str
    first: int
    count: int
    size: int

    def __len__(self) -> int:
        """Count the batches."""
        return -(-self.count // self.size)

    def __getitem__(self, batch: int) -> list[Scene]:
        """Draw one batch."""
        stop = self.first + self.count
        start = self.first + batch * self.size
        return [
            make_scene(self.samples, self.seed, self.split, index)
            for index in range(start, min(start + self.size, stop))
        ]

    def draw(self, workers: int) -> Iterator[list[Scene]]:
        """Go through the batches in order, drawn ahead by that many processes (0: none)."""
        return iter(DataLoader(self, batch_size=None, num_workers=workers))
