"""The image processors that are known, and what a setting means when a file leaves it out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from PIL import Image

from sparsevlm_trt.runtime.errors import BundleError

__all__ = ["CROPPING_TYPES", "PROCESSOR_TYPES", "TYPE_OPTIONS", "option_of", "processor_type"]

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
TYPE_OPTIONS: Mapping[str, Mapping[str, int]] = {
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
CROPPING_TYPES = (
    "LlavaNextImageProcessor",
    "LlavaNextVideoImageProcessor",
    "LlavaOnevisionImageProcessor",
)


def processor_type(config: Mapping[str, Any]) -> str:
    """Name the type of a processor's file, without the endings of its faster forms.

    Raises:
        BundleError: It is none of `PROCESSOR_TYPES`.
    """
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


def option_of(config: Mapping[str, Any], key: str) -> object:
    """Look up one of `TYPE_OPTIONS` where files have it; None where this one does not."""
    for path in [(key,), *_NESTED.get(key, ())]:
        found: object = config
        for step in path:
            found = found.get(step) if isinstance(found, Mapping) else None
        if found is not None:
            return found
    return None
