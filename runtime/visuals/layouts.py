"""The token layouts, found by the name that the manifest gives."""

from __future__ import annotations

from sparsevlm_trt.runtime.errors import BundleError
from sparsevlm_trt.runtime.image_processor import ImageProcessor
from sparsevlm_trt.runtime.model_spec import VisionSpec
from sparsevlm_trt.runtime.tokenizer import Tokenizer
from sparsevlm_trt.runtime.visuals.anyres import AnyResLayout
from sparsevlm_trt.runtime.visuals.block import BlockLayout
from sparsevlm_trt.runtime.visuals.patches import PatchesLayout
from sparsevlm_trt.runtime.visuals.split import SplitLayout
from sparsevlm_trt.runtime.visuals.tiles import TilesLayout
from sparsevlm_trt.runtime.visuals.visual import VisualLayout

__all__ = ["open_layout"]


def open_layout(
    spec: VisionSpec,
    images: ImageProcessor,
    frames: ImageProcessor | None,
    tokenizer: Tokenizer,
) -> VisualLayout:
    """Make a bundle's layout.

    Args:
        spec: What the manifest says of the vision side.
        images: Preprocesses images and crops.
        frames: Preprocesses the frames of videos; None where the model takes none.
        tokenizer: Spells the placeholders.

    Raises:
        BundleError: A layout that this version does not know.
    """
    image = tokenizer.text_of(spec.image_token_id)
    video = "" if spec.video_token_id is None else tokenizer.text_of(spec.video_token_id)
    if spec.layout == "block":
        return BlockLayout(spec, images, frames, image, video)
    if spec.layout == "anyres":
        return AnyResLayout(spec, images, frames, image, video)
    if spec.layout == "tiles":
        around = _pair(spec, tokenizer, "start_token", "end_token")
        return TilesLayout(spec, images, frames, image, around)
    if spec.layout == "patches":
        stamped = "start_token" in spec.settings
        borders = _pair(spec, tokenizer, "start_token", "end_token") if stamped else None
        return PatchesLayout(spec, images, frames, image, video, borders)
    if spec.layout == "split":
        border, whole = _pair(spec, tokenizer, "border_token", "whole_token")
        return SplitLayout(spec, images, frames, image, border, whole)
    raise BundleError(
        f"vision.layout | got {spec.layout!r} | expected anyres, block, patches, split or tiles "
        "| install a newer sparsevlm-trt, or export the bundle again"
    )


def _pair(spec: VisionSpec, tokenizer: Tokenizer, first: str, second: str) -> tuple[str, str]:
    """The texts of two tokens that the settings name."""
    return tokenizer.text_of(spec.setting(first)), tokenizer.text_of(spec.setting(second))
