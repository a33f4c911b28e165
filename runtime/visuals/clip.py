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
