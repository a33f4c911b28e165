"""An image is split into tiles, each behind words that say where it stands, and seen whole too.

Source: transformers 5.24, `SmolVLMImageProcessor` and `SmolVLMProcessor`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from sparsevlm_trt.runtime.device_array import Tensor
from sparsevlm_trt.runtime.image_loader import ImageSource, check_area, load_image
from sparsevlm_trt.runtime.image_processor import ImageProcessor
from sparsevlm_trt.runtime.manifest import VisionSpec
from sparsevlm_trt.runtime.visuals.clip import Clip
from sparsevlm_trt.runtime.visuals.frames import no_videos
from sparsevlm_trt.runtime.visuals.tiles import cut
from sparsevlm_trt.runtime.visuals.visual import Visual

__all__ = ["SplitLayout", "longest_size", "tiled_size"]

_MOST_PIXELS_ALONG = 4096


@dataclass(frozen=True, slots=True)
class SplitLayout:
    """SmolVLM's tiles.

    Attributes:
        spec: What the manifest says of the vision side.
        images: Preprocesses tiles.
        placeholder: The image token, as text.
        border: What stands before each tile, and behind the last.
        whole: What says that a tile shows the whole image.
    """

    spec: VisionSpec
    images: ImageProcessor
    placeholder: str
    border: str
    whole: str

    def image(self, source: ImageSource, alone: bool) -> Visual:
        """Bring an image to whole tiles and split it."""
        config = self.images.config
        image = load_image(source, convert_rgb=config.convert_rgb)
        size = (image.height, image.width)
        height, width = longest_size(size, config.option("longest_edge"))
        check_area(width, height, "after resizing")
        image = image.resize((width, height), config.resample)
        tile = config.option("tile_edge")
        height, width = tiled_size((height, width), tile)
        image = image.resize((width, height), config.resample)
        grid = (height // tile, width // tile)
        tiles = [image]
        if grid != (1, 1):
            tiles = [*cut(image, (tile, tile)), image.resize((tile, tile), config.resample)]
        pixels = np.stack([self.images.pixels(one) for one in tiles])
        count = len(tiles) * self.spec.num_visual
        text = self._text(grid)
        return Visual("image", {"pixel_values": pixels}, len(tiles), count, text, size, grid)

    def video(self, clip: Clip) -> Visual:
        """Refuse: the words around frames need an English library of numbers."""
        raise no_videos(clip)

    def pack(self, visual: Visual, outputs: Mapping[str, Tensor]) -> list[Tensor]:
        """Take the features as they are."""
        features = outputs["image_features"]
        return [features[row : row + 1] for row in range(visual.num_rows)]

    def _text(self, grid: tuple[int, int]) -> str:
        """Say where each tile stands: rows of tiles on lines of their own, then the whole."""
        tokens = self.placeholder * self.spec.num_visual
        whole = f"{self.border}{self.whole}{tokens}{self.border}"
        if grid == (1, 1):
            return whole
        lines = [
            "".join(
                f"{self.border}<row_{row + 1}_col_{column + 1}>{tokens}"
                for column in range(grid[1])
            )
            for row in range(grid[0])
        ]
        return "\n".join([*lines, "", whole])


def longest_size(size: tuple[int, int], longest: int) -> tuple[int, int]:
    """Scale rows and columns so that the longer side is `longest`, the other one even.

    Source: `get_resize_output_image_size`.
    """
    height, width = size
    ratio = width / height
    if width >= height:
        height, width = int(longest / ratio), longest
        height += height % 2
    else:
        height, width = longest, int(longest * ratio)
        width += width % 2
    height, width = max(height, 1), max(width, 1)
    most, ratio = _MOST_PIXELS_ALONG, width / height
    if max(height, width) <= most:
        return height, width
    if width >= height:
        return max(int(most / ratio), 1), most
    return most, max(int(most * ratio), 1)


def tiled_size(size: tuple[int, int], tile: int) -> tuple[int, int]:
    """Stretch rows and columns to whole tiles, the longer side first.

    Source: `resize_for_vision_encoder`.
    """
    height, width = size
    ratio = width / height
    if width >= height:
        width = math.ceil(width / tile) * tile
        return math.ceil(int(width / ratio) / tile) * tile, width
    height = math.ceil(height / tile) * tile
    return height, math.ceil(int(height * ratio) / tile) * tile
