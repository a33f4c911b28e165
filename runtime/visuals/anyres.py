"""Images of any resolution: the whole image, then crops of it, a newline after each row.

The crops make one large map; the part of it that only shows padding is cut off. Used by
LLaVA-NeXT and LLaVA-NeXT-Video, and by LLaVA-OneVision, which shrinks large maps and does not crop
where a prompt has several images.

Dims: V tokens of a crop, N hidden size; sizes are (rows, columns).
Source: transformers 5.24, `LlavaNextModel.pack_image_features` and its processors.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from sparsevlm_trt.runtime.device_array import Tensor
from sparsevlm_trt.runtime.errors import InputError
from sparsevlm_trt.runtime.image_loader import ImageSource, check_area, load_image
from sparsevlm_trt.runtime.image_processor import ImageProcessor, squared
from sparsevlm_trt.runtime.model_spec import VisionSpec
from sparsevlm_trt.runtime.runner import Array
from sparsevlm_trt.runtime.visuals.clip import Clip
from sparsevlm_trt.runtime.visuals.frames import frame_pixels, video_of_frames
from sparsevlm_trt.runtime.visuals.resample import resampled
from sparsevlm_trt.runtime.visuals.visual import Visual

__all__ = ["AnyResLayout"]

_OUTPUTS = ("image_features", "image_newline")
# A map is shrunk only where it is this many times too long.
_TOO_LONG = 1.1


@dataclass(frozen=True, slots=True)
class AnyResLayout:
    """Crops as many as the image's shape asks for."""

    spec: VisionSpec
    images: ImageProcessor
    frames: ImageProcessor | None
    placeholder: str
    video_placeholder: str

    def image(self, source: ImageSource, alone: bool) -> Visual:
        """Cut an image into crops; one of several stays whole where the model was trained so."""
        config = self.images.config
        image = load_image(source, convert_rgb=config.convert_rgb)
        size = (image.height, image.width)
        if self.spec.setting("max_tiles") and not alone:
            crops, grid = [squared(image, config.background)], (0, 0)
            count = self.spec.num_visual + 1
        else:
            resolution = best_resolution(size, self.spec.resolutions)
            rows, columns = self.spec.image_size
            grid = (resolution[0] // rows, resolution[1] // columns)
            crops = [image.resize((columns, rows), config.resample)]
            crops += _tiles(image, resolution, self.spec.image_size, config.resample)
            height, width = self._shrunk(self._unpadded(size, grid))
            count = self.spec.num_visual + height * (width + 1)
        pixels = np.stack([self.images.pixels(crop) for crop in crops])
        return Visual(
            "image",
            {"pixel_values": pixels},
            len(crops),
            count,
            self.placeholder * count,
            size,
            grid,
        )

    def video(self, clip: Clip) -> Visual:
        """Bring every frame to the tower's size; a frame has a quarter of an image's tokens."""
        if self.spec.setting("frame_tokens"):
            return video_of_frames(self.spec, self.frames, self.video_placeholder, clip)
        pixels = frame_pixels(self.frames, clip)
        rows, columns = (math.ceil(side / 2) for side in self.spec.grid)
        count = len(pixels) * rows * columns + 1
        text = self.video_placeholder * count
        inputs = {"pixel_values": pixels}
        return Visual("video", inputs, len(pixels), count, text, self.spec.image_size)

    def pack(self, visual: Visual, outputs: Mapping[str, Tensor]) -> list[Tensor]:
        """Lay crops side by side, cut the padding off, end each row with a newline."""
        if visual.graph == "video":
            features = outputs["image_features"]
            return [features[row : row + 1] for row in range(visual.num_rows)]
        features, newline = (np.asarray(outputs[name]) for name in _OUTPUTS)
        return [self._packed(visual, features, newline)[None]]

    def _packed(self, visual: Visual, features: Array, newline: Array) -> Array:
        """Make `[tokens, N]` of features `[I, V, N]` and the newline `[1, N]`."""
        rows, columns = self.spec.grid
        hidden = features.shape[-1]
        if visual.kind == "video":
            maps = features.reshape(-1, rows, columns, hidden)
            small = resampled(maps, math.ceil(rows / 2), math.ceil(columns / 2))
            return np.concatenate([small.reshape(-1, hidden), newline])
        if visual.grid == (0, 0):
            return np.concatenate([features[0], newline])
        down, across = visual.grid
        crops = features[1:].reshape(down, across, rows, columns, hidden)
        whole = crops.transpose(0, 2, 1, 3, 4).reshape(down * rows, across * columns, hidden)
        height, width = self._unpadded(visual.size, visual.grid)
        top, left = (whole.shape[0] - height) // 2, (whole.shape[1] - width) // 2
        whole = whole[top : top + height, left : left + width]
        shrunk = self._shrunk((height, width))
        if shrunk != (height, width):
            whole = resampled(whole, *shrunk)
        ends = np.broadcast_to(newline, (whole.shape[0], 1, hidden))
        lines = np.concatenate([whole, ends], axis=1).reshape(-1, hidden)
        return np.concatenate([features[0], lines])

    def _unpadded(self, size: tuple[int, int], grid: tuple[int, int]) -> tuple[int, int]:
        """The part of the large map that shows the image."""
        height, width = (tiles * side for tiles, side in zip(grid, self.spec.grid, strict=True))
        if size[1] / size[0] > width / height:
            shown = int(round(size[0] * (width / size[1]), 7))
            return height - (height - shown) // 2 * 2, width
        shown = int(round(size[1] * (height / size[0]), 7))
        return height, width - (width - shown) // 2 * 2

    def _shrunk(self, size: tuple[int, int]) -> tuple[int, int]:
        """The size to bring a large map to."""
        most = self.spec.setting("max_tiles")
        if not most:
            return size
        ratio = math.sqrt(size[0] * size[1] / (most * self.spec.grid[0] ** 2))
        if ratio <= _TOO_LONG:
            return size
        return int(size[0] // ratio), int(size[1] // ratio)


def best_resolution(
    size: tuple[int, int], resolutions: Sequence[tuple[int, int]]
) -> tuple[int, int]:
    """Choose the resolution that shows most of an image, and of those the smallest.

    Raises:
        InputError: The image is so thin that no resolution shows any of it.
    """
    best, most_shown, least_wasted = None, 0, math.inf
    for height, width in resolutions:
        scale = min(width / size[1], height / size[0])
        shown = min(int(size[1] * scale) * int(size[0] * scale), size[0] * size[1])
        wasted = height * width - shown
        if shown > most_shown or (shown == most_shown and wasted < least_wasted):
            best, most_shown, least_wasted = (height, width), shown, wasted
    if best is None or not most_shown:
        raise InputError(
            f"image | got {size[1]}x{size[0]} pixels | expected a shape of which the model's "
            "resolutions show at least one row and column | crop it first"
        )
    return best


def _tiles(
    image: Image.Image,
    resolution: tuple[int, int],
    tile: tuple[int, int],
    resample: Image.Resampling,
) -> Iterator[Image.Image]:
    """Fit an image into a resolution, on black, and cut that into tiles."""
    height, width = resolution
    scale_across, scale_down = width / image.width, height / image.height
    if scale_across < scale_down:
        fitted = (width, min(math.ceil(image.height * scale_across), height))
    else:
        fitted = (min(math.ceil(image.width * scale_down), width), height)
    check_area(width, height, "in crops")
    canvas = Image.new("RGB", (width, height))
    place = ((width - fitted[0]) // 2, (height - fitted[1]) // 2)
    canvas.paste(image.resize(fitted, resample), place)
    for top in range(0, height, tile[0]):
        for left in range(0, width, tile[1]):
            yield canvas.crop((left, top, left + tile[1], top + tile[0]))
