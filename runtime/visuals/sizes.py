"""The size that images and videos of no fixed resolution are brought to: whole merged patches."""

from __future__ import annotations

import math

from sparsevlm_trt.runtime.errors import InputError
from sparsevlm_trt.runtime.image_config import ImageConfig

__all__ = ["film_size", "most_units", "smart_size"]

LONGEST = 200  # an image may be so many times as long as wide


def smart_size(size: tuple[int, int], unit: int, config: ImageConfig) -> tuple[int, int]:
    """Find the size nearest to an image's whose sides are whole units.

    Args:
        size: Rows and columns, pixels.
        unit: Pixels of a merged patch.
        config: Its options `min_pixels` and `max_pixels` bound the image.

    Raises:
        InputError: The image is too long for its width.

    Source: `smart_resize` of Qwen2-VL's processor.
    """
    bounds = (config.option("min_pixels"), config.option("max_pixels"))
    return _bounded(size, unit, bounds, 1, 1)


def most_units(unit: int, least: int, most: int) -> int:
    """Bound the merged patches that `smart_size` makes of any image.

    Args:
        unit: Pixels of a merged patch.
        least: `min_pixels`.
        most: `max_pixels`.
    """
    large, small = most / unit**2, least / unit**2
    # Enlarged images are rounded up on both sides, most at the longest shape.
    enlarged = small + 1 + math.sqrt(small) * (math.sqrt(LONGEST) + 1 / math.sqrt(LONGEST))
    # A shrunk image keeps one row, however long it is.
    shrunk = max(large, math.sqrt(LONGEST * large)) if large < LONGEST else large
    return max(1, math.floor(shrunk), math.floor(enlarged) if least else 1)


def film_size(
    size: tuple[int, int], unit: int, config: ImageConfig, *, num_frames: int, depth: int
) -> tuple[int, int]:
    """Find the size of a video's frames; its pixels are counted over all of them.

    Args:
        size: Rows and columns of a frame, pixels.
        unit: Pixels of a merged patch.
        config: Its options `min_pixels` and `max_pixels` bound the video, `max_video_tokens`
            a frame where it is given.
        num_frames: Frames.
        depth: Frames of a patch.

    Raises:
        InputError: Fewer frames than a patch has, or frames too long for their width.

    Source: `smart_resize` of Qwen3-VL's video processor, transformers 5.24.
    """
    if num_frames < depth:
        raise InputError(
            f"videos | got one of {num_frames} frames | expected {depth} or more | give it as an "
            "image"
        )
    least, most = config.option("min_pixels"), config.option("max_pixels")
    if cap := dict(config.options).get("max_video_tokens"):
        most = max(min(cap * unit**2, most // num_frames), int(least * 1.05)) * num_frames
    height, width = size
    if min(size) < unit:
        scale = max(unit / height, unit / width)
        height, width = int(height * scale), int(width * scale)
    return _bounded((height, width), unit, (least, most), num_frames, depth)


def _bounded(
    size: tuple[int, int], unit: int, bounds: tuple[int, int], num_frames: int, depth: int
) -> tuple[int, int]:
    height, width = size
    if max(size) / min(size) > LONGEST:
        raise InputError(
            f"image | got {width}x{height} pixels | expected at most {LONGEST} times as long as "
            "wide | crop it first"
        )
    least, most = bounds
    rows, columns = round(height / unit) * unit, round(width / unit) * unit
    time = round(num_frames / depth) * depth
    if time * rows * columns > most:
        scale = math.sqrt(num_frames * height * width / most)
        rows = max(unit, math.floor(height / scale / unit) * unit)
        columns = max(unit, math.floor(width / scale / unit) * unit)
    elif time * rows * columns < least:
        scale = math.sqrt(least / (num_frames * height * width))
        rows = math.ceil(height * scale / unit) * unit
        columns = math.ceil(width * scale / unit) * unit
    return rows, columns
