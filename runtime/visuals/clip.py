"""A video as the layouts take it: its frames, and when each of them is shown."""

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
        shown: When each is shown, in seconds from the beginning of the video; None: one after
            the other at that rate.
        duration: Seconds of the whole video; None: not known, it ends with its last frame.
    """

    frames: Sequence[ImageSource]
    frames_per_second: float = FRAMES_PER_SECOND
    shown: Sequence[float] | None = None
    duration: float | None = None

    @property
    def seconds(self) -> list[float]:
        """When each frame is shown, from the beginning of the video."""
        if self.shown is not None:
            return list(self.shown)
        return [number / self.frames_per_second for number in range(len(self.frames))]

    def times(self, depth: int) -> list[float]:
        """When each `depth` frames are shown, in seconds from the first: amid their own times.

        Frames that the last ones lack are the last one again.
        """
        seconds = self.seconds
        last = len(seconds) - 1
        return [
            (seconds[first] + seconds[min(first + depth - 1, last)]) / 2
            for first in range(0, len(seconds), depth)
        ]
