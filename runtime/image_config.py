"""Read a checkpoint's image processor settings, strictly, into one typed value."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from sparsevlm_trt.runtime.errors import BundleError
from sparsevlm_trt.runtime.processor_files import read_json_object

__all__ = ["PROCESSOR_TYPES", "ImageConfig", "Size"]

_FILES = {"preprocessor_config.json": None, "processor_config.json": "image_processor"}
_VIDEO_FILES = {"video_preprocessor_config.json": None, "processor_config.json": "video_processor"}

_CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
_CLIP_STD = (0.26862954, 0.26130258, 0.27577711)

_COMMON: dict[str, Any] = {
    "do_convert_rgb": True,
    "do_resize": True,
    "resample": int(Image.Resampling.BICUBIC),
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "do_normalize": True,
    "do_pad": False,
    "pad_size": None,
}
_CLIP = _COMMON | {
    "size": {"shortest_edge": 224},
    "do_center_crop": True,
    "crop_size": {"height": 224, "width": 224},
    "image_mean": _CLIP_MEAN,
    "image_std": _CLIP_STD,
}
_ONEVISION = _COMMON | {
    "size": {"height": 384, "width": 384},
    "do_center_crop": False,
    "crop_size": None,
    "image_mean": _CLIP_MEAN,
    "image_std": _CLIP_STD,
}
_QWEN = _ONEVISION | {"size": None}
_HALF = (0.5, 0.5, 0.5)
_SIGLIP = _COMMON | {
    "size": {"height": 224, "width": 224},
    "do_center_crop": False,
    "crop_size": None,
    "image_mean": (0.5, 0.5, 0.5),
    "image_std": (0.5, 0.5, 0.5),
}

_SMOLVLM = _QWEN | {
    "image_mean": _HALF,
    "image_std": _HALF,
    "resample": int(Image.Resampling.LANCZOS),
}
_SMOLVLM_OPTIONS = {"longest_edge": 4 * 364, "film_edge": 4 * 364, "tile_edge": 364}

# What a key means when the file leaves it out. Source: the class attributes in transformers 5.23.
PROCESSOR_TYPES: Mapping[str, Mapping[str, Any]] = {
    "BitImageProcessor": _CLIP,
    "GotOcr2ImageProcessor": _ONEVISION,
    "InternVLVideoProcessor": _ONEVISION,
    "LlavaNextVideoImageProcessor": _CLIP,
    "LlavaNextVideoVideoProcessor": _CLIP,
    "VideoLlavaImageProcessor": _CLIP,
    "VideoLlavaVideoProcessor": _CLIP,
    "CLIPImageProcessor": _CLIP,
    "LlavaImageProcessor": _CLIP,
    "LlavaNextImageProcessor": _CLIP,
    "LlavaOnevisionImageProcessor": _ONEVISION,
    "LlavaOnevisionVideoProcessor": _ONEVISION,
    "Qwen2VLImageProcessor": _QWEN,
    "Qwen2VLVideoProcessor": _QWEN,
    "Qwen3VLVideoProcessor": _QWEN
    | {"image_mean": _HALF, "image_std": _HALF, "cap_pixels_per_frame": False},
    "SiglipImageProcessor": _SIGLIP,
    "SmolVLMImageProcessor": _SMOLVLM,
    "SmolVLMVideoProcessor": _SMOLVLM,
}
# Whole numbers that only one type has, with what they are when left out.
_OPTIONS: Mapping[str, Mapping[str, int]] = {
    "GotOcr2ImageProcessor": {"min_patches": 1, "max_patches": 12},
    "Qwen2VLImageProcessor": {"min_pixels": 56 * 56, "max_pixels": 28 * 28 * 1280},
    "Qwen2VLVideoProcessor": {"min_pixels": 128 * 28 * 28, "max_pixels": 28 * 28 * 768},
    "Qwen3VLVideoProcessor": {
        "min_pixels": 128 * 32 * 32,
        "max_pixels": 32 * 32 * 768,
        "max_video_tokens": 768,
    },
    "SmolVLMImageProcessor": _SMOLVLM_OPTIONS,
    "SmolVLMVideoProcessor": _SMOLVLM_OPTIONS,
}
# Where files have those numbers that are not found by their name: keys within keys, first found.
_NESTED: Mapping[str, Sequence[tuple[str, ...]]] = {
    "min_pixels": [("size", "shortest_edge"), ("size", "min_pixels")],
    "max_pixels": [("size", "longest_edge"), ("size", "max_pixels")],
    "longest_edge": [("size", "longest_edge")],
    # In this order: `SmolVLMVideoProcessor.__init__`.
    "film_edge": [("size", "longest_edge"), ("video_sampling", "video_size", "longest_edge")],
    "tile_edge": [("max_image_size", "longest_edge")],
}
# Those that crop an image: their `do_pad` makes numbers of crops equal, not sizes of images.
_CROPPING = (
    "LlavaNextImageProcessor",
    "LlavaNextVideoImageProcessor",
    "LlavaOnevisionImageProcessor",
)


@dataclass(frozen=True, slots=True)
class Size:
    """A target size in pixels: both sides, or the shorter side with the aspect kept.

    Attributes:
        height: Pixels down; with `shortest`, the shorter side whichever it is.
        width: Pixels across; with `shortest`, equal to `height`.
        shortest: Keep the aspect ratio.
    """

    height: int
    width: int
    shortest: bool = False

    def of(self, width: int, height: int) -> tuple[int, int]:
        """Give the new (width, height) of an image."""
        if not self.shortest:
            return self.width, self.height
        longer = int(self.height * max(width, height) / min(width, height))
        return (self.height, longer) if width <= height else (longer, self.height)


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
        kind = _processor_type(config)
        defaults = PROCESSOR_TYPES[kind]
        given = {key: config[key] for key in defaults if config.get(key) is not None}
        read = _Reader({**defaults, **given})
        normalises, pads = read.flag("do_normalize"), read.flag("do_pad")
        mean = read.channels("image_mean")
        llava, crops = kind == "LlavaImageProcessor", kind in _CROPPING
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
                (key, read.count(key, _option(config, key), default))
                for key, default in _OPTIONS.get(kind, {}).items()
                if caps or key != "max_video_tokens"
            ),
        )
        if read.problems:
            raise BundleError(
                f"preprocessor_config.json | got {'; '.join(read.problems)} | expected the values "
                f"of {kind} | export the bundle again"
            )
        return result


class _Reader:
    """Reads typed values from a config and keeps every problem it meets."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        self.config = config
        self.problems: list[str] = []

    def has(self, key: str) -> bool:
        return self.config[key] is not None

    def flag(self, key: str) -> bool:
        value = self.config[key]
        if not isinstance(value, bool):
            self._note(key)
        return value is True

    def number(self, key: str) -> float:
        value = self.config[key]
        if _is_number(value):
            return float(value)
        self._note(key)
        return 1.0

    def count(self, key: str, value: object, default: int) -> int:
        if value is None:
            return default
        if _is_edge(value):
            return int(value)  # type: ignore[call-overload,no-any-return]
        self.problems.append(f"{key} {value!r}")
        return default

    def channels(self, key: str) -> tuple[float, ...]:
        value = self.config[key]
        listed = [value] * 3 if _is_number(value) else value
        sound = isinstance(listed, (list, tuple)) and all(map(_is_number, listed))
        if not sound or len(listed) != 3 or (key == "image_std" and 0 in listed):
            self._note(key)
            return (1.0, 1.0, 1.0)
        return tuple(float(one) for one in listed)

    def resample(self, key: str) -> Image.Resampling:
        try:
            return Image.Resampling(self.config[key])
        except ValueError:
            self._note(key)
            return Image.Resampling.BICUBIC

    def size(self, key: str, *, square: bool) -> Size:
        value = self.config[key]
        if isinstance(value, int):
            value = {"height": value, "width": value} if square else {"shortest_edge": value}
        elif isinstance(value, (list, tuple)) and len(value) == 2:
            value = {"height": value[0], "width": value[1]}
        edges = dict(value) if isinstance(value, Mapping) else {}
        keys = {name for name, edge in edges.items() if edge is not None}
        if all(_is_edge(edges[name]) for name in keys):
            if keys == {"height", "width"}:
                return Size(edges["height"], edges["width"])
            if keys == {"shortest_edge"} and key == "size":
                return Size(edges["shortest_edge"], edges["shortest_edge"], shortest=True)
        self._note(key)
        return Size(1, 1)

    def _note(self, key: str) -> None:
        self.problems.append(f"{key} {self.config[key]!r}")


def _processor_type(config: Mapping[str, Any]) -> str:
    keys = ("video_processor_type", "image_processor_type", "feature_extractor_type")
    named = next((config[key] for key in keys if config.get(key)), None)
    kind = str(named).replace("FeatureExtractor", "ImageProcessor")
    for suffix in ("Fast", "Pil"):
        kind = kind.removesuffix(suffix)
    if kind not in PROCESSOR_TYPES:
        raise BundleError(
            f"preprocessor_config.json | got image_processor_type {named!r} | expected one of "
            f"{', '.join(PROCESSOR_TYPES)} | use a model with one of these"
        )
    return kind


def _option(config: Mapping[str, Any], key: str) -> object:
    for path in [(key,), *_NESTED.get(key, ())]:
        found: object = config
        for step in path:
            found = found.get(step) if isinstance(found, Mapping) else None
        if found is not None:
            return found
    return None


def _colour(mean: Sequence[float]) -> tuple[int, int, int]:
    red, green, blue = (int(one * 255) for one in mean)
    return red, green, blue


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _is_edge(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0
