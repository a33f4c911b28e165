"""How small and how large the images of a bundle can be, in tokens and rows of the vision graph.

What the manifest does not tell is read from the bundle's processor files: how many tiles an image
is cut into, how many pixels one of no fixed size may keep.
"""

from __future__ import annotations

from dataclasses import dataclass

from sparsevlm_trt.runtime.bundle import Bundle
from sparsevlm_trt.runtime.errors import EngineError
from sparsevlm_trt.runtime.model_spec import VisionSpec

__all__ = ["USUAL_TOKENS", "ImageBounds", "image_bounds"]

# Of an image that keeps its own size, unless it is said: what the authors of Qwen2-VL recommend
# (`max_pixels = 1280 * 28 * 28`). The model takes 16384, at 256 times the attention of its tower.
USUAL_TOKENS = 1280


@dataclass(frozen=True, slots=True)
class ImageBounds:
    """One image at the least and at the most.

    Attributes:
        least_tokens: Visual tokens of the smallest image or video.
        tokens: Tokens of the largest image's block, words between its tiles included.
        rows: Rows of the vision graph that it takes: crops, tiles or patches.
        pixels: Its pixels after the model's own resizing, where images keep their size; else None.
        is_block: Whether visual tokens of one image stand side by side, and images are all.
    """

    least_tokens: int
    tokens: int
    rows: int
    pixels: int | None = None
    is_block: bool = True


def image_bounds(bundle: Bundle, max_pixels: int | None = None) -> ImageBounds | None:
    """Bound the images of a bundle.

    Args:
        bundle: The bundle.
        max_pixels: Pixels of the largest image, where images keep their size; None: so many as
            make `USUAL_TOKENS`, or as the model takes.

    Returns:
        The bounds; None where the bundle has no vision graph.

    Raises:
        EngineError: The pixels are fewer than the model makes of any image, or are given for a
            model whose images have sizes of their own.
        BundleError: The processor files cannot be followed.
    """
    vision = bundle.manifest.vision
    if vision is not None and vision.layout == "patches":
        return _of_patches(bundle, vision, max_pixels)
    if max_pixels is not None:
        raise EngineError(
            f"limits | got --max-image-pixels {max_pixels} | expected none: the images of this "
            "model are brought to sizes of its own | leave it out"
        )
    if vision is None:
        return None
    tokens, rows = _of_crops(vision)
    if vision.layout in ("tiles", "split"):
        tokens, rows = _of_tiles(bundle, vision)
    # A video of one frame, pooled, may be smaller than an image.
    least = 1 if vision.takes_videos else vision.num_visual
    is_block = vision.layout != "split" and not vision.takes_videos
    return ImageBounds(least, tokens, rows, is_block=is_block)


def _of_patches(bundle: Bundle, vision: VisionSpec, max_pixels: int | None) -> ImageBounds:
    from sparsevlm_trt.runtime.image_config import ImageConfig
    from sparsevlm_trt.runtime.visuals.sizes import most_units

    config = ImageConfig.open(bundle.processor)
    unit = vision.setting("patch_size") * vision.setting("merge_size")
    least = config.option("min_pixels")
    tokens = most_units(unit, least, config.option("max_pixels"))
    # The smallest images are brought to `min_pixels`, whatever is asked for.
    floor = max(1, -(-least // unit**2))
    asked = max(USUAL_TOKENS, floor) if max_pixels is None else max_pixels // unit**2
    if asked < floor:
        raise EngineError(
            f"limits | got --max-image-pixels {max_pixels} | expected {floor * unit**2} or more, "
            "what this model makes of its smallest image | raise it, or leave it out"
        )
    tokens = min(tokens, asked)
    rows = tokens * vision.setting("merge_size") ** 2
    return ImageBounds(1, tokens, rows, tokens * unit**2, is_block=not vision.takes_videos)


def _of_crops(vision: VisionSpec) -> tuple[int, int]:
    """Tokens and rows of an image that is seen whole, or also in crops."""
    tokens, rows = vision.num_visual, 1
    most = vision.settings.get("max_tiles", 0)
    for height, width in vision.resolutions:
        down, across = height // vision.image_size[0], width // vision.image_size[1]
        lines, columns = down * vision.grid[0], across * vision.grid[1]
        shown = lines * columns
        if most:  # larger maps are shrunk to about so many tiles
            shown = min(shown, round(1.21 * most * vision.num_visual) + 1)
        tokens = max(tokens, vision.num_visual + shown + lines)
        rows = max(rows, 1 + down * across)
    return tokens, rows


def _of_tiles(bundle: Bundle, vision: VisionSpec) -> tuple[int, int]:
    """Tokens and rows of an image that is cut into tiles, and seen whole too."""
    from sparsevlm_trt.runtime.processor import Processor
    from sparsevlm_trt.runtime.visuals.split import SplitLayout, most_tiles

    processor = Processor(bundle)
    config = processor.images.config
    if vision.layout == "tiles":
        most = config.option("max_patches")
        rows = most + 1 if most > 1 else 1
        return rows * vision.num_visual, rows
    side = most_tiles(config.option("longest_edge"), config.option("tile_edge"))
    rows = side**2 + 1 if side > 1 else 1
    layout = processor.layout
    assert isinstance(layout, SplitLayout)
    return len(processor.encode(layout.words_and_tokens((side, side)))), rows
