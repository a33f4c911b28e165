"""One image or video on its way into a prompt, and what every token layout can do with it.

Dims: I rows of the vision graph (images, crops or frames), V tokens of a row, N hidden size.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

from sparsevlm_trt.runtime.device_array import Tensor
from sparsevlm_trt.runtime.image_loader import ImageSource
from sparsevlm_trt.runtime.runner import Array

__all__ = ["Visual", "VisualLayout"]


@dataclass(frozen=True, slots=True, eq=False)
class Visual:
    """An image or a video, ready for the vision graph.

    Attributes:
        kind: What it is.
        inputs: Inputs of the graph by name; the first axis counts rows.
        num_tokens: Visual tokens that it becomes.
        text: What its placeholder becomes in the prompt: `num_tokens` visual tokens, and the
            words that the model wants around them.
        size: Rows and columns of the image as it was given, in pixels.
        grid: Rows and columns of crops, without the one of the whole image; (0, 0) for none.
    """

    kind: Literal["image", "video"]
    inputs: Mapping[str, Array]
    num_tokens: int
    text: str
    size: tuple[int, int]
    grid: tuple[int, int] = field(default=(0, 0))

    @property
    def num_rows(self) -> int:
        """Rows that the vision graph makes features of."""
        return len(next(iter(self.inputs.values())))


class VisualLayout(Protocol):
    """Knows how one kind of model lays visual tokens out; opened by `layouts.open_layout`."""

    def image(self, source: ImageSource, alone: bool) -> Visual:
        """Read an image; `alone` says whether it is the only one of its prompt.

        Raises:
            InputError: It cannot be used.
        """

    def video(self, frames: Sequence[ImageSource]) -> Visual:
        """Read the frames of a video.

        Raises:
            InputError: A frame cannot be used, or the model takes no videos.
        """

    def pack(self, visual: Visual, outputs: Mapping[str, Tensor]) -> list[Tensor]:
        """Lay the graph's outputs for one visual out as the prompt's tokens, in order.

        Returns:
            Arrays `[1, n, N]` that hold `num_tokens` together, where the engine computes or here.
        """
