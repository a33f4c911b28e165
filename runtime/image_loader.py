"""Open one image, whatever it is given as: a path, a Pillow image or a uint8 array."""

from __future__ import annotations

import os
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from sparsevlm_trt.runtime.errors import InputError

__all__ = ["ImageSource", "check_area", "load_image"]

ImageSource: TypeAlias = "Image.Image | NDArray[np.uint8] | str | os.PathLike[str]"

_CHANNELS = (1, 3, 4)
_WHITE = 255


def load_image(source: ImageSource, *, convert_rgb: bool = True) -> Image.Image:
    """Open an image as three bands of 8 bits.

    A path is turned upright by its EXIF orientation and loses its alpha channel. A Pillow image or
    an array keeps its orientation, and its transparency is laid on white.

    Args:
        source: A path, a Pillow image, or a uint8 array `[H, W]`, `[H, W, C]` or `[C, H, W]` with
            1, 3 or 4 channels.
        convert_rgb: Convert other modes to RGB; without it they are refused.

    Returns:
        An image of mode RGB, at least 1x1.

    Raises:
        InputError: It is missing, not an image, too large, or not convertible.
    Source: transformers 5.23 `image_utils.load_image` (paths), `image_transforms.convert_to_rgb`.
    """
    if isinstance(source, Image.Image):
        image = _from_pillow(source, convert_rgb)
    elif isinstance(source, np.ndarray):
        image = _from_array(source, convert_rgb)
    elif isinstance(source, (str, os.PathLike)):
        image = _from_path(source)
    else:
        raise InputError(
            f"image | got {type(source).__name__} | expected a path, a Pillow image or a uint8 "
            "array | open or convert it first"
        )
    if 0 in image.size:
        raise InputError(
            f"image | got {image.width}x{image.height} pixels | expected at least one pixel "
            "| check the crop that made it"
        )
    return image


def check_area(width: int, height: int, what: str) -> None:
    """Refuse an image size that would exhaust the memory, by Pillow's own limit.

    Args:
        width: Pixels across.
        height: Pixels down.
        what: How the size came about, for the message.

    Raises:
        InputError: More than twice `PIL.Image.MAX_IMAGE_PIXELS`, where Pillow refuses files.
    """
    limit = Image.MAX_IMAGE_PIXELS
    if limit is not None and width * height > 2 * limit:
        raise InputError(
            f"image | got {width}x{height} pixels {what} | expected at most {2 * limit} pixels "
            "| crop or shrink the image first"
        )


def _from_path(path: str | os.PathLike[str]) -> Image.Image:
    try:
        with Image.open(path) as opened:
            upright = ImageOps.exif_transpose(opened)
            return upright.convert("RGB")
    except Image.DecompressionBombError as error:
        raise InputError(
            f"image {os.fspath(path)} | got more pixels than Pillow's limit | expected at most "
            f"{2 * (Image.MAX_IMAGE_PIXELS or 0)} | shrink the image first"
        ) from error
    except OSError as error:
        raise InputError(
            f"image {os.fspath(path)} | got {_reason(error)} | expected a readable image file "
            "| check the path and the file"
        ) from error
    except Exception as error:  # Pillow's decoders raise whatever their parsing ran into.
        raise InputError(
            f"image {os.fspath(path)} | got a broken file ({_reason(error)}) | expected a "
            "readable image file | save the image anew"
        ) from error


def _from_pillow(image: Image.Image, convert_rgb: bool) -> Image.Image:
    try:
        if not convert_rgb:
            return _bands_as_rgb(image)
        if "A" in image.getbands() or image.info.get("transparency") is not None:
            layer = image.convert("RGBA")
            white = Image.new("RGBA", layer.size, (_WHITE, _WHITE, _WHITE, _WHITE))
            return Image.alpha_composite(white, layer).convert("RGB")
        return image.convert("RGB")
    except InputError:
        raise
    except Exception as error:  # A lazily opened image decodes only here.
        raise InputError(
            f"image of mode {image.mode} | got {_reason(error)} | expected an image that converts "
            "to RGB | convert it first"
        ) from error


def _bands_as_rgb(image: Image.Image) -> Image.Image:
    """Take three 8-bit bands as they lie, as the config's `do_convert_rgb: false` asks."""
    bands = np.asarray(image)
    if bands.dtype != np.uint8 or bands.ndim != 3 or bands.shape[2] != 3:
        raise InputError(
            f"image | got mode {image.mode} | expected three 8-bit bands, as this model does not "
            "convert | convert it to RGB first"
        )
    return Image.fromarray(bands)


def _from_array(array: NDArray[np.uint8], convert_rgb: bool) -> Image.Image:
    pixels = _channels_last(array)
    channels = pixels.shape[2]
    if channels != 3 and not convert_rgb:
        raise InputError(
            f"image array | got {channels} channels | expected 3, as this model does not convert "
            "| convert it to RGB first"
        )
    if channels == 1:
        pixels = np.repeat(pixels, 3, axis=2)
    elif channels == 4:
        alpha = pixels[..., 3:] / _WHITE
        blend = alpha * pixels[..., :3] + (1 - alpha) * _WHITE
        pixels = np.round(blend).astype(np.uint8)
    if pixels.size == 0:
        return Image.new("RGB", (pixels.shape[1], pixels.shape[0]))
    return Image.fromarray(np.ascontiguousarray(pixels))


def _channels_last(array: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Bring an array to `[H, W, C]`; a shape that reads both ways is refused, never guessed."""
    shape = list(array.shape)
    first = array.ndim == 3 and shape[0] in _CHANNELS
    last = array.ndim == 3 and shape[2] in _CHANNELS
    if array.dtype == np.uint8:
        if array.ndim == 2:
            return array[:, :, None]
        if last and not first:
            return array
        if first and not last:
            return np.moveaxis(array, 0, -1)
    got = f"{array.dtype} {shape}" + (", which reads both ways" if first and last else "")
    raise InputError(
        f"image array | got {got} | expected uint8 [H, W], [H, W, C] or [C, H, W] with 1, 3 or 4 "
        "channels | pass a Pillow image"
    )


def _reason(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return (str(error) or type(error).__name__).splitlines()[0]
