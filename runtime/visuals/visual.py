"""One image or video on its way into a prompt, and what every token layout can do with it.

Dims: I rows of the vision graph (images, crops or frames), V tokens of a row, N hidden size.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np

from sparsevlm_trt.runtime.device_array import Tensor
from sparsevlm_trt.runtime.image_loader import ImageSource
from sparsevlm_trt.runtime.runner import Array
from sparsevlm_trt.runtime.visuals.clip import Clip

__all__ = ["Visual", "VisualLayout", "joined_inputs"]

# Inputs that number groups of rows: rows of two visuals never belong to one group.
_GROUPS = ("segments", "windows")


@dataclass(frozen=True, slots=True, eq=False)
class Visual:
    """An image or a video, ready for the vision graph.

    Attributes:
        kind: What it is.
        inputs: Inputs of the graph by name.
        num_rows: Rows of the graph's features that are its own.
        num_tokens: Visual tokens that it becomes.
        text: What its placeholder becomes in the prompt: `num_tokens` visual tokens, and the
            words that the model wants around them.
        size: Rows and columns of the image as it was given, in pixels.
        grid: Rows and columns of crops, without the one of the whole image; (0, 0) for none.
        graph: The graph that makes its features.
        cells: Time steps, rows and columns of its tokens, where these have three positions.
        interval: How far apart time steps are, in positions.
        apart: Whether words stand between its time steps.
    """

    kind: Literal["image", "video"]
    inputs: Mapping[str, Array]
    num_rows: int
    num_tokens: int
    text: str
    size: tuple[int, int]
    grid: tuple[int, int] = (0, 0)
    graph: str = "vision"
    cells: tuple[int, int, int] = (0, 0, 0)
    interval: float = 1.0
    apart: bool = False

    @property
    def blocks(self) -> list[tuple[int, tuple[int, int, int]]]:
        """Its runs of tokens: the first token of each, and time steps, rows and columns."""
        time, rows, columns = self.cells
        if not self.apart:
            return [(0, self.cells)]
        return [(step * rows * columns, (1, rows, columns)) for step in range(time)]


class VisualLayout(Protocol):
    """Knows how one kind of model lays visual tokens out; opened by `layouts.open_layout`."""

    def image(self, source: ImageSource, alone: bool) -> Visual:
        """Read an image; `alone` says whether it is the only one of its prompt.

        Raises:
            InputError: It cannot be used.
        """

    def video(self, clip: Clip) -> Visual:
        """Read the frames of a video.

        Raises:
            InputError: A frame cannot be used, or the model takes no videos.
        """

    def pack(self, visual: Visual, outputs: Mapping[str, Tensor]) -> list[Tensor]:
        """Lay the graph's outputs for one visual out as the prompt's tokens, in order.

        Returns:
            Arrays `[1, n, N]` that hold `num_tokens` together, where the engine computes or here.
        """


def joined_inputs(visuals: Sequence[Visual]) -> dict[str, Array]:
    """Put the graph inputs of several visuals below each other."""
    joined = {}
    for name in visuals[0].inputs:
        parts = [one.inputs[name] for one in visuals]
        if name in _GROUPS:
            sizes = [int(part.max()) + 1 for part in parts]
            parts = [part + sum(sizes[:number]) for number, part in enumerate(parts)]
        joined[name] = np.concatenate(parts)
    return joined
