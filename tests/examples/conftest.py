"""Makes the scripts of examples/digits-vlm importable by their plain names, as when they run."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

EXAMPLE = Path(__file__).parents[2] / "examples" / "digits-vlm"
sys.path.insert(0, str(EXAMPLE))

from data import DigitSamples  # noqa: E402 - importable only from here on


@pytest.fixture
def example_folder() -> Path:
    return EXAMPLE


@pytest.fixture
def samples() -> DigitSamples:
    """Ten blocks of ink, one for each digit."""
    pixels = np.zeros((10, 28, 28), np.uint8)
    pixels[:, 6:22, 6:22] = np.arange(240, 250, dtype=np.uint8)[:, None, None]
    return DigitSamples(pixels, np.arange(10, dtype=np.uint8))
