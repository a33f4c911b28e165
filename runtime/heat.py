"""Visual scores as colours: a ramp from dark to bright, and the scale it stands for."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["HeatScale", "heat_colours"]

# Lightness rises evenly from first to last, so the order survives in grey and to the colour-blind.
_RAMP = np.array(
    [(38, 24, 84), (98, 26, 108), (168, 44, 92), (226, 88, 52), (250, 164, 40), (252, 244, 176)],
    np.float32,
)
_BRIGHTEST_SHARE = 0.99  # a single sink of attention must not leave all others dark


@dataclass(frozen=True, slots=True)
class HeatScale:
    """The scores that the ends of the ramp stand for.

    Attributes:
        low: Score of the darkest colour, the lowest there is.
        high: Score of the brightest; the hundredth part of the scores above it are as bright.
    """

    low: float
    high: float

    @classmethod
    def of(cls, scores: NDArray[np.float32]) -> HeatScale | None:
        """Fit a scale to scores of any shape; None where none is a finite number."""
        finite = scores[np.isfinite(scores)]
        if not finite.size:
            return None
        return cls(float(finite.min()), float(np.quantile(finite, _BRIGHTEST_SHARE)))

    def spell(self) -> str:
        """Tell the ends in two digits each."""
        return f"{self.low:.2g} (dark) to {self.high:.2g} (bright)"


def heat_colours(scores: NDArray[np.float32], scale: HeatScale) -> NDArray[np.float32]:
    """Colour scores; equal scores are equal in colour.

    Args:
        scores: Any shape; what is not finite gets the darkest colour.
        scale: Where the ramp begins and ends.

    Returns:
        Red, green and blue, `[..., 3]`, 0 to 255.
    """
    span = scale.high - scale.low
    share = np.clip((scores - scale.low) / span, 0, 1) if span > 0 else np.full_like(scores, 0.5)
    place = np.where(np.isfinite(scores), share, 0) * (len(_RAMP) - 1)
    stops = np.arange(len(_RAMP))
    bands = [np.interp(place, stops, _RAMP[:, band]) for band in range(3)]
    return np.stack(bands, axis=-1).astype(np.float32)
