"""Read a checkpoint's image processor settings, strictly, into one typed value."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from sparsevlm_trt.runtime.errors import BundleError
from sparsevlm_trt.runtime.image_values import Size, ValueReader
from sparsevlm_trt.runtime.processor_files import read_json_object
from sparsevlm_trt.runtime.processor_types import (
    CROPPING_TYPES,
    PROCESSOR_TYPES,
    TYPE_OPTIONS,
    option_of,
    processor_type,
)

__all__ = ["ImageConfig"]

_FILES = {"preprocessor_config.json": None, "processor_config.json": "image_processor"}
_VIDEO_FILES = {"video_preprocessor_config.json": None, "processor_config.json": "video_processor"}


@dataclass(frozen=True, slots=True)
class ImageConfig:
    """The steps that turn an image into pixel values; a None leaves the step out.

    Attributes:
        convert_rgb: Convert every image to RGB first.
        square: Colour to pad to a square with, before resizing (LLaVA's own `do_pad`).
        size: Size to resize to.
        resample: Pillow's filter.
        crop: Size of the centre crop; a smaller image is centred on black.
        rescale: Factor on the 0..255 values.
        mean: Mean per channel, after `rescale`.
        std: Standard deviation per channel, after `rescale`.
        pad: Pad with zeros at the right and bottom, at the end (every other type's `do_pad`).
        pad_size: Size to pad to; None means the largest of the call.
        background: The mean as a colour, to pad with where a layout does.
        options: Whole numbers of this type alone, by name.
    """

    convert_rgb: bool
    square: tuple[int, int, int] | None
    size: Size | None
    resample: Image.Resampling
    crop: Size | None
    rescale: float | None
    mean: tuple[float, ...] | None
    std: tuple[float, ...] | None
    pad: bool
    pad_size: Size | None
    background: tuple[int, int, int] = (0, 0, 0)
    options: tuple[tuple[str, int], ...] = ()

    def option(self, name: str) -> int:
        """A whole number that a layout asks for; KeyError for one that the type does not have."""
        return dict(self.options)[name]

    @classmethod
    def open(cls, folder: str | Path, *, video: bool = False) -> ImageConfig:
        """Read a checkpoint's processor files.

        Args:
            folder: Holds `preprocessor_config.json`, or `processor_config.json` with an
                `image_processor` section (as transformers 5 saves it).
            video: Read what is said of the frames of videos instead.

        Raises:
            BundleError: Neither is there, or it cannot be followed.
        """
        files = _VIDEO_FILES if video else _FILES
        for name, section in files.items():
            config = read_json_object(folder, name)
            if config is not None and section is not None:
                config = config.get(section)
            if isinstance(config, dict):
                return cls.from_hf(config)
        raise BundleError(
            f"{folder} | got no {'video' if video else 'image'} processor | expected "
            f"{next(iter(files))} | export the bundle again"
        )

    @classmethod
    def from_hf(cls, config: Mapping[str, Any]) -> ImageConfig:
        """Take in the content of a `preprocessor_config.json`.

        Args:
            config: The file's content; keys that do not bear on the pixels are ignored.

        Raises:
            BundleError: An unsupported type, or values that cannot be followed (all named).
        Source: transformers 5.23, the Pillow form of the types in `PROCESSOR_TYPES`.
        """
        kind = processor_type(config)
        defaults = PROCESSOR_TYPES[kind]
        given = {key: config[key] for key in defaults if config.get(key) is not None}
        read = ValueReader({**defaults, **given})
        normalises, pads = read.flag("do_normalize"), read.flag("do_pad")
        mean = read.channels("image_mean")
        llava, crops = kind == "LlavaImageProcessor", kind in CROPPING_TYPES
        square = config.get("default_to_square") is True
        # Sizes that depend on the image's are for a layout to find.
        resizes = read.flag("do_resize") and defaults["size"] is not None
        # What a frame's tokens are at most matters where a video's size is settled by frames.
        caps = "cap_pixels_per_frame" in defaults and read.flag("cap_pixels_per_frame")
        result = cls(
            convert_rgb=read.flag("do_convert_rgb"),
            square=_colour(mean) if pads and llava else None,
            size=read.size("size", square=square) if resizes else None,
            resample=read.resample("resample"),
            crop=read.size("crop_size", square=True) if read.flag("do_center_crop") else None,
            rescale=read.number("rescale_factor") if read.flag("do_rescale") else None,
            mean=mean if normalises else None,
            std=read.channels("image_std") if normalises else None,
            pad=pads and not llava and not crops,
            pad_size=read.size("pad_size", square=True) if pads and read.has("pad_size") else None,
            background=_colour(mean),
            options=tuple(
                (key, read.count(key, option_of(config, key), default))
                for key, default in TYPE_OPTIONS.get(kind, {}).items()
                if caps or key != "max_video_tokens"
            ),
        )
        if read.problems:
            raise BundleError(
                f"preprocessor_config.json | got {'; '.join(read.problems)} | expected the values "
                f"of {kind} | export the bundle again"
            )
        return result


def _colour(mean: Sequence[float]) -> tuple[int, int, int]:
    red, green, blue = (int(one * 255) for one in mean)
    return red, green, blue
