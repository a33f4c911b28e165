"""An image is split into tiles, each behind words that say where it stands, and seen whole too.

The frames of a video are each seen whole, behind the time at which they are shown.

Source: transformers 5.24, `SmolVLMImageProcessor`, `SmolVLMVideoProcessor`, `SmolVLMProcessor`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta

import numpy as np

from sparsevlm_trt.runtime.device_array import Tensor
from sparsevlm_trt.runtime.image_loader import ImageSource, check_area, load_image
from sparsevlm_trt.runtime.image_processor import ImageProcessor
from sparsevlm_trt.runtime.model_spec import VisionSpec
from sparsevlm_trt.runtime.visuals.clip import Clip
from sparsevlm_trt.runtime.visuals.frames import no_videos
from sparsevlm_trt.runtime.visuals.numerals import cardinal
from sparsevlm_trt.runtime.visuals.tiles import cut
from sparsevlm_trt.runtime.visuals.visual import Visual

__all__ = ["SplitLayout", "longest_size", "most_tiles", "tiled_size"]

_MOST_PIXELS_ALONG = 4096
_FILM_INTRO = (
    "You are provided the following series of {frames} frames from a {duration} [H:MM:SS] video.\n"
)
_FILM_END = "\n\n"


@dataclass(frozen=True, slots=True)
class SplitLayout:
    """SmolVLM's tiles.

    Attributes:
        spec: What the manifest says of the vision side.
        images: Preprocesses tiles.
        frames: Preprocesses frames; None where the model takes no videos.
        placeholder: The image token, as text; video frames consist of it too.
        border: What stands before each tile, and behind the last.
        whole: What says that a tile shows the whole image.
    """

    spec: VisionSpec
    images: ImageProcessor
    frames: ImageProcessor | None
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
        text = self.words_and_tokens(grid)
        return Visual("image", {"pixel_values": pixels}, len(tiles), count, text, size, grid)

    def video(self, clip: Clip) -> Visual:
        """Bring every frame to one tile."""
        if self.frames is None:
            raise no_videos(clip)
        config = self.frames.config
        edge, tile = config.option("film_edge"), config.option("tile_edge")
        frames = []
        for source in clip.frames:
            image = load_image(source, convert_rgb=config.convert_rgb)
            size = (image.height, image.width)
            height, width = longest_size(size, min(edge, _MOST_PIXELS_ALONG))
            check_area(width, height, "after resizing")
            frames.append(
                image.resize((width, height), config.resample).resize(
                    (tile, tile), config.resample
                )
            )
        pixels = np.stack([self.frames.pixels(frame) for frame in frames])
        count = len(frames) * self.spec.num_visual
        text = self._film_text(clip)
        return Visual("video", {"pixel_values": pixels}, len(frames), count, text, (tile, tile))

    def pack(self, visual: Visual, outputs: Mapping[str, Tensor]) -> list[Tensor]:
        """Take the features as they are."""
        features = outputs["image_features"]
        return [features[row : row + 1] for row in range(visual.num_rows)]

    def words_and_tokens(self, grid: tuple[int, int]) -> str:
        """Say where each tile stands: rows of tiles on lines of their own, then the whole."""
        tokens, whole = self.placeholder * self.spec.num_visual, self._seen_whole()
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

    def _film_text(self, clip: Clip) -> str:
        """Say how many frames there are and when each is shown."""
        seconds = [int(second) for second in clip.seconds]
        duration = seconds[-1] if clip.duration is None else int(clip.duration)
        intro = _FILM_INTRO.format(
            frames=cardinal(len(seconds)), duration=timedelta(seconds=duration)
        )
        whole = self._seen_whole()
        shown = [f"\nFrame from {s // 60:02d}:{s % 60:02d}:{whole}" for s in seconds]
        return "".join([intro, *shown, _FILM_END])

    def _seen_whole(self) -> str:
        """Say that a tile shows the whole."""
        return f"{self.border}{self.whole}{self.placeholder * self.spec.num_visual}{self.border}"


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


def most_tiles(longest: int, tile: int) -> int:
    """Bound the tiles that stand side by side, or below each other.

    Args:
        longest: Pixels that the longer side is scaled to.
        tile: Pixels of a tile's side.
    """
    longest = min(longest + longest % 2, _MOST_PIXELS_ALONG)  # of a square the other may be even
    return math.ceil(longest / tile)


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
