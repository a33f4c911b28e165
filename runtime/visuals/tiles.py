"""An image is cut into tiles of one size, each a fixed number of tokens, and seen whole too.

Source: transformers 5.24, `GotOcr2ImageProcessor` and `InternVLProcessor`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from PIL import Image

from sparsevlm_trt.runtime.device_array import Tensor
from sparsevlm_trt.runtime.image_loader import ImageSource, check_area, load_image
from sparsevlm_trt.runtime.image_processor import ImageProcessor
from sparsevlm_trt.runtime.model_spec import VisionSpec
from sparsevlm_trt.runtime.visuals.clip import Clip
from sparsevlm_trt.runtime.visuals.frames import frame_pixels
from sparsevlm_trt.runtime.visuals.visual import Visual

__all__ = ["TilesLayout", "cut"]


@dataclass(frozen=True, slots=True)
class TilesLayout:
    """InternVL's tiles.

    Attributes:
        spec: What the manifest says of the vision side.
        images: Preprocesses tiles.
        frames: Preprocesses frames; None where the model takes no videos.
        placeholder: The image token, as text; video frames consist of it too.
        around: What stands before and after the tokens of an image.
    """

    spec: VisionSpec
    images: ImageProcessor
    frames: ImageProcessor | None
    placeholder: str
    around: tuple[str, str]

    def image(self, source: ImageSource, alone: bool) -> Visual:
        """Cut an image into the grid of tiles nearest to its shape."""
        config = self.images.config
        image = load_image(source, convert_rgb=config.convert_rgb)
        rows, columns = self.spec.image_size
        grid = tile_grid(
            (image.height, image.width),
            self.spec.image_size,
            config.option("min_patches"),
            config.option("max_patches"),
        )
        whole = (columns * grid[1], rows * grid[0])
        check_area(*whole, "in tiles")
        tiles = list(cut(image.resize(whole, config.resample), self.spec.image_size))
        if len(tiles) > 1:
            tiles.append(image.resize((columns, rows), config.resample))
        pixels = np.stack([self.images.pixels(tile) for tile in tiles])
        count = len(tiles) * self.spec.num_visual
        text = self.around[0] + self.placeholder * count + self.around[1]
        size = (image.height, image.width)
        return Visual("image", {"pixel_values": pixels}, len(tiles), count, text, size, grid)

    def video(self, clip: Clip) -> Visual:
        """Bring every frame to a tile's size, each numbered in words."""
        pixels = frame_pixels(self.frames, clip)
        each = self.around[0] + self.placeholder * self.spec.num_visual + self.around[1]
        text = "\n".join(f"Frame{number + 1}: {each}" for number in range(len(pixels)))
        count = len(pixels) * self.spec.num_visual
        inputs = {"pixel_values": pixels}
        return Visual("video", inputs, len(pixels), count, text, self.spec.image_size)

    def pack(self, visual: Visual, outputs: Mapping[str, Tensor]) -> list[Tensor]:
        """Take the features as they are."""
        features = outputs["image_features"]
        return [features[row : row + 1] for row in range(visual.num_rows)]


def tile_grid(
    size: tuple[int, int], tile: tuple[int, int], least: int, most: int
) -> tuple[int, int]:
    """Choose the rows and columns of tiles whose shape is nearest to an image's.

    Of grids equally near, the larger one is taken where the image has pixels for half of it.

    Args:
        size: Rows and columns of the image, pixels.
        tile: Rows and columns of a tile, pixels.
        least: Tiles at least.
        most: Tiles at most.
    """
    # Fewer tiles first, wide grids last: the order decides between equals.
    grids = sorted(
        (
            (rows, columns)
            for columns in range(1, most + 1)
            for rows in range(1, most + 1)
            if least <= rows * columns <= most
        ),
        key=lambda grid: grid[0] * grid[1],
    )
    best, nearest = (1, 1), float("inf")
    for rows, columns in grids:
        distance = abs(size[1] / size[0] - columns / rows)
        filled = size[0] * size[1] > 0.5 * tile[0] * tile[1] * rows * columns
        if distance < nearest or (distance == nearest and filled):
            best, nearest = (rows, columns), distance
    return best


def cut(image: Image.Image, tile: tuple[int, int]) -> Iterator[Image.Image]:
    """Cut an image into tiles, row by row."""
    for top in range(0, image.height, tile[0]):
        for left in range(0, image.width, tile[1]):
            yield image.crop((left, top, left + tile[1], top + tile[0]))
