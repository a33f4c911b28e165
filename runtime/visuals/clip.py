"""A video as the layouts take it: its frames, and how fast they follow each other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # importing Pillow takes time that arrays do not need
    from sparsevlm_trt.runtime.image_loader import ImageSource

__all__ = ["FRAMES_PER_SECOND", "Clip"]

# What frames given as a list are taken for: the rate that video models are made to sample at.
FRAMES_PER_SECOND = 2.0


@dataclass(frozen=True, slots=True)
class Clip:
    """Frames of a video.

    Attributes:
        frames: In order, each what an image may be.
        frames_per_second: Of these frames, after sampling.
    """

    frames: Sequence[ImageSource]
    frames_per_second: float = FRAMES_PER_SECOND

    def times(self, depth: int) -> list[float]:
        """When each `depth` frames are shown, in seconds from the first: amid their own times.

        Frames that the last ones lack are the last one again.
        """
        last = len(self.frames) - 1
        starts = range(0, len(self.frames), depth)
        spans = [(first, min(first + depth - 1, last)) for first in starts]
        rate = self.frames_per_second
        return [(first / rate + end / rate) / 2 for first, end in spans]
