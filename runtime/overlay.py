"""Pictures of one prune step: what became of each patch, and how it scored, drawn on the image."""

from __future__ import annotations

import math
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from sparsevlm_trt.runtime.errors import InputError
from sparsevlm_trt.runtime.heat import HeatScale, heat_colours
from sparsevlm_trt.runtime.patch_map import PatchMap, PatchState

__all__ = ["FATES", "draw_fates", "draw_heat", "enlarged"]

Colour = tuple[int, int, int]
Floats = NDArray[np.float32]
Value = TypeVar("Value", bound=np.generic)

PANEL = 336  # pixels; smaller images are enlarged to it or beyond, by a whole factor

# The colour laid over a patch in each state, and how much of it covers the patch. Dropped patches
# go to slate and not to black: a black patch that was kept must differ from a dropped one.
FATES: dict[PatchState, tuple[Colour, float]] = {
    PatchState.KEPT: ((255, 255, 255), 0.0),
    PatchState.RECYCLED: ((38, 132, 255), 0.6),
    PatchState.DROPPED: ((84, 88, 98), 0.75),
    PatchState.GONE: ((40, 42, 48), 0.9),
}
_EDGE: Colour = (255, 255, 255)
_HEAT_COVER = 0.75
_LUMA = np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R BT.601, as Pillow's mode L


def enlarged(seen: Image.Image) -> Image.Image:
    """Enlarge a small image to `PANEL` pixels or more; its pixels stay sharp squares."""
    factor = _factor(seen)
    return seen.resize((seen.width * factor, seen.height * factor), Image.Resampling.NEAREST)


def draw_fates(seen: Image.Image, patches: PatchMap) -> Image.Image:
    """Draw kept patches clear inside a white edge, recycled ones tinted, dropped ones dim.

    Args:
        seen: The image as the model saw it.
        patches: What became of its patches.

    Returns:
        RGB, enlarged as `enlarged` does.

    Raises:
        InputError: The image has fewer pixels than patches.
    """
    pixels = np.asarray(enlarged(seen.convert("RGB")), np.float32)  # [h, w, 3]
    states = _on_pixels(patches.states, seen, int(PatchState.GONE))
    grey = (pixels @ _LUMA)[..., None]
    drawn = pixels
    for state, (colour, cover) in FATES.items():
        if cover:
            drawn = np.where((states == state)[..., None], _covered(grey, colour, cover), drawn)
    edge = _inner_edge(states == PatchState.KEPT)
    return _image(np.where(edge[..., None], np.array(_EDGE, np.float32), drawn))


def draw_heat(seen: Image.Image, patches: PatchMap, scale: HeatScale | None) -> Image.Image:
    """Draw the visual scores over the image; patches without one are dim.

    Args:
        seen: The image as the model saw it.
        patches: Scores of its patches.
        scale: What the colours stand for; None where there is no score.

    Returns:
        RGB, enlarged as `enlarged` does.

    Raises:
        InputError: The image has fewer pixels than patches.
    """
    pixels = np.asarray(enlarged(seen.convert("RGB")), np.float32)
    scores = _on_pixels(patches.scores, seen, np.nan)
    grey = (pixels @ _LUMA)[..., None]
    drawn = _covered(grey, *FATES[PatchState.GONE])
    if scale is not None:
        hot = _covered(grey, heat_colours(scores, scale), _HEAT_COVER)
        drawn = np.where(np.isfinite(scores)[..., None], hot, drawn)
    return _image(drawn)


def _factor(seen: Image.Image) -> int:
    return math.ceil(PANEL / max(seen.size))


def _covered(grey: Floats, colour: Colour | Floats, cover: float) -> Floats:
    """Lay a colour, or one for each pixel, over a grey image `[h, w, 1]`."""
    laid: Floats = (1 - cover) * grey + cover * np.asarray(colour, np.float32)
    return laid


def _on_pixels(values: NDArray[Value], seen: Image.Image, beyond: float) -> NDArray[Value]:
    """Spread values of patches `[rows, columns]` over the pixels of the enlarged image.

    A tower drops what is left of the image behind the last whole patch; it becomes `beyond`.
    """
    rows, columns = values.shape
    height, width = seen.height // rows, seen.width // columns
    if not height or not width:
        raise InputError(
            f"picture | got an image of {seen.width}x{seen.height} pixels | expected {columns}x"
            f"{rows} or more, a pixel for each patch | give the image that was asked about"
        )
    spread = np.full((seen.height, seen.width), beyond, values.dtype)
    spread[: rows * height, : columns * width] = _repeated(values, height, width)
    factor = _factor(seen)
    return _repeated(spread, factor, factor)


def _repeated(values: NDArray[Value], down: int, across: int) -> NDArray[Value]:
    return np.repeat(np.repeat(values, down, axis=0), across, axis=1)


def _inner_edge(region: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Mark the pixels of a region that touch a pixel outside it; the image's border is none."""
    around = np.pad(region, 1, mode="edge")
    inside = around[:-2, 1:-1] & around[2:, 1:-1] & around[1:-1, :-2] & around[1:-1, 2:]
    return region & ~inside


def _image(pixels: Floats) -> Image.Image:
    """Round to bytes."""
    return Image.fromarray(np.rint(pixels).clip(0, 255).astype(np.uint8))
