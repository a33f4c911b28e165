"""All pictures of one answer, with their captions: what a strip and a page lay out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

from PIL import Image

from sparsevlm_trt.runtime.captions import heat_caption, seen_caption, stage_caption
from sparsevlm_trt.runtime.errors import InputError
from sparsevlm_trt.runtime.heat import HeatScale
from sparsevlm_trt.runtime.image_loader import ImageSource, load_image
from sparsevlm_trt.runtime.image_processor import ImageProcessor
from sparsevlm_trt.runtime.overlay import draw_fates, draw_heat, enlarged
from sparsevlm_trt.runtime.patch_map import PatchMap, num_images, patch_map
from sparsevlm_trt.runtime.trace import Trace

__all__ = ["Gallery", "Images", "StagePictures", "galleries", "image_seen", "stage_pictures"]

Images: TypeAlias = "ImageSource | Sequence[ImageSource]"


@dataclass(frozen=True, slots=True, eq=False)
class StagePictures:
    """One prune step on one image.

    Attributes:
        patches: What became of its patches.
        overlay: Kept clear, recycled tinted, dropped dim.
        heat: The visual scores; None where the step had none to choose by.
        caption: Title and counts.
        heat_caption: What the colours of the heat map stand for.
    """

    patches: PatchMap
    overlay: Image.Image
    heat: Image.Image | None
    caption: tuple[str, ...]
    heat_caption: str


@dataclass(frozen=True, slots=True, eq=False)
class Gallery:
    """One image and its prune steps; all pictures are equal in size."""

    seen: Image.Image
    caption: tuple[str, ...]
    stages: tuple[StagePictures, ...]


def galleries(trace: Trace, images: Images) -> tuple[Gallery, ...]:
    """Draw every prune step on every image of the visual block.

    Args:
        trace: Of the answer.
        images: What was asked about, as it was given; later images than the block's are left out.

    Raises:
        InputError: There is nothing to draw, an image is missing, or cannot be read.
    """
    count = num_images(trace)
    return tuple(
        Gallery(
            seen=enlarged(seen),
            caption=seen_caption(trace, number, count),
            stages=tuple(
                stage_pictures(trace, seen, stage, number) for stage in range(len(trace.stages))
            ),
        )
        for number, seen in enumerate(_all_seen(trace, images, count))
    )


def image_seen(trace: Trace, images: Images, number: int) -> Image.Image:
    """Give one image of the visual block as the model saw it.

    Raises:
        InputError: As `galleries`, or there is no such image.
    """
    count = num_images(trace)
    if not 0 <= number < count:
        raise InputError(
            f"picture | got image {number} | expected 0 to {count - 1}, the images of the visual "
            "block | later images are never pruned"
        )
    return _all_seen(trace, images, count)[number]


def stage_pictures(trace: Trace, seen: Image.Image, stage: int, number: int) -> StagePictures:
    """Draw one prune step on one image.

    Args:
        trace: Of the answer.
        seen: The image as the model saw it.
        stage: Which prune step.
        number: Which image of the visual block it is.

    Raises:
        InputError: There is no such step or image.
    """
    patches = patch_map(trace, stage, number)
    # One scale for all images of a block: their patches stood against each other.
    scale = HeatScale.of(patches.step.scores) if patches.is_scored else None
    return StagePictures(
        patches=patches,
        overlay=draw_fates(seen, patches),
        heat=draw_heat(seen, patches, scale) if scale else None,
        caption=stage_caption(patches),
        heat_caption=heat_caption(scale),
    )


def _all_seen(trace: Trace, images: Images, count: int) -> list[Image.Image]:
    """Bring the block's images to what the model saw."""
    listed: list[ImageSource]
    if isinstance(images, str) or not isinstance(images, Sequence):
        listed = [images]
    else:
        listed = list(images)
    if len(listed) < count:
        raise InputError(
            f"picture | got {len(listed)} image{'s' * (len(listed) != 1)} | expected {count}, as "
            "many as the visual block has | give the images that were asked about"
        )
    if trace.image_config is None:  # the prompt was made of embeddings
        return [load_image(one) for one in listed[:count]]
    return ImageProcessor(trace.image_config).seen(listed[:count])
