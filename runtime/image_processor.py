"""Turn images into pixel values as the checkpoint's own processor does, in Pillow and numpy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from sparsevlm_trt.runtime.errors import InputError
from sparsevlm_trt.runtime.image_config import ImageConfig
from sparsevlm_trt.runtime.image_loader import ImageSource, check_area, load_image

__all__ = ["ImageProcessor", "Pixels", "squared"]

Pixels: TypeAlias = NDArray[np.float32]

_BRIGHTEST = 255


@dataclass(frozen=True, slots=True)
class ImageProcessor:
    """Pads, resizes, crops, rescales and normalises images, as `config` says."""

    config: ImageConfig

    @classmethod
    def open(cls, folder: str | Path) -> ImageProcessor:
        """Build the processor of a bundle's `processor/` folder.

        Raises:
            BundleError: Its image processor file is missing or cannot be followed.
        """
        return cls(ImageConfig.open(folder))

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> ImageProcessor:
        """Build the processor that the content of a `preprocessor_config.json` describes.

        Raises:
            BundleError: An unsupported type, or values that cannot be followed (all named).
        """
        return cls(ImageConfig.from_hf(config))

    def __call__(self, images: ImageSource | Sequence[ImageSource]) -> Pixels:
        """Process one image or several.

        Args:
            images: Paths, Pillow images or uint8 arrays (`load_image` tells how each is read).

        Returns:
            Pixel values `[num_images, 3, h, w]`, float32.

        Raises:
            InputError: An image cannot be used, or the results differ in size.
        """
        listed: list[ImageSource]
        if isinstance(images, str) or not isinstance(images, Sequence):
            listed = [images]
        else:
            listed = list(images)
        if not listed:
            raise InputError("images | got none | expected at least one | pass an image")
        done = [
            self.pixels(load_image(one, convert_rgb=self.config.convert_rgb)) for one in listed
        ]
        if self.config.pad:
            done = self._pad(done)
        shapes = sorted({one.shape[1:] for one in done})
        if len(shapes) > 1:
            raise InputError(
                f"images | got sizes {', '.join(f'{w}x{h}' for h, w in shapes)} | expected one "
                "size, as this model does not resize | make the images equal in size"
            )
        return np.stack(done)

    def seen(self, images: ImageSource | Sequence[ImageSource]) -> list[Image.Image]:
        """Give the pictures that the pixel values stand for: what the model saw.

        Args:
            images: As for a call.

        Returns:
            One RGB image of the model's size for each.

        Raises:
            InputError: As for a call.
        """
        pixels = self(images)
        if self.config.mean is not None and self.config.std is not None:
            std, mean = (np.array(one, np.float32) for one in (self.config.std, self.config.mean))
            pixels = pixels * std[:, None, None] + mean[:, None, None]
        if self.config.rescale is not None:
            pixels = pixels / np.float32(self.config.rescale)
        bands = np.clip(np.rint(pixels), 0, _BRIGHTEST).astype(np.uint8)  # [I, 3, h, w]
        return [Image.fromarray(np.ascontiguousarray(np.moveaxis(one, 0, -1))) for one in bands]

    def pixels(self, image: Image.Image) -> Pixels:
        """Process one RGB image, without padding to others: `[3, h, w]`, float32."""
        if self.config.square is not None:
            image = squared(image, self.config.square)
        if self.config.size is not None:
            target = self.config.size.of(*image.size)
            check_area(*target, f"after resizing {image.width}x{image.height}")
            image = image.resize(target, resample=self.config.resample)
        if self.config.crop is not None:
            # Floor division centres a smaller image as transformers does: the odd row goes above.
            left = (image.width - self.config.crop.width) // 2
            top = (image.height - self.config.crop.height) // 2
            image = image.crop(
                (left, top, left + self.config.crop.width, top + self.config.crop.height)
            )
        table = self._table()
        bands = np.asarray(image)  # [h, w, 3]
        return np.stack([table[c][bands[..., c]] for c in range(3)])  # [3, h, w]

    def _table(self) -> Pixels:
        """Give every byte's value per channel `[3, 256]`: 768 values in place of h x w x 3."""
        values = np.arange(256, dtype=np.float64)
        # The product is rounded to float32 before the mean is taken off, as transformers does.
        scaled = (values if self.config.rescale is None else values * self.config.rescale).astype(
            np.float32
        )
        table = np.repeat(scaled[None], 3, axis=0)
        if self.config.mean is not None and self.config.std is not None:
            mean = np.array(self.config.mean, dtype=np.float32)[:, None]
            std = np.array(self.config.std, dtype=np.float32)[:, None]
            table = (table - mean) / std
        return table

    def _pad(self, done: list[Pixels]) -> list[Pixels]:
        height = (
            self.config.pad_size.height
            if self.config.pad_size
            else max(one.shape[1] for one in done)
        )
        width = (
            self.config.pad_size.width
            if self.config.pad_size
            else max(one.shape[2] for one in done)
        )
        for one in done:
            if one.shape[1] > height or one.shape[2] > width:
                raise InputError(
                    f"image | got {one.shape[2]}x{one.shape[1]} pixels | expected at most "
                    f"{width}x{height} to pad | shrink the image first"
                )
        return [
            np.pad(one, ((0, 0), (0, height - one.shape[1]), (0, width - one.shape[2])))
            for one in done
        ]


def squared(image: Image.Image, colour: tuple[int, int, int]) -> Image.Image:
    """Centre an image on a square of one colour.

    Raises:
        InputError: The square is too large.
    """
    if image.width == image.height:
        return image
    side = max(image.size)
    check_area(side, side, "after padding to a square")
    canvas = Image.new("RGB", (side, side), colour)
    canvas.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
    return canvas
