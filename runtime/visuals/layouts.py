"""The token layouts, found by the name that the manifest gives."""

from __future__ import annotations

from sparsevlm_trt.runtime.errors import BundleError
from sparsevlm_trt.runtime.image_processor import ImageProcessor
from sparsevlm_trt.runtime.manifest import VisionSpec
from sparsevlm_trt.runtime.visuals.anyres import AnyResLayout
from sparsevlm_trt.runtime.visuals.block import BlockLayout
from sparsevlm_trt.runtime.visuals.visual import VisualLayout

__all__ = ["open_layout"]


def open_layout(
    spec: VisionSpec,
    images: ImageProcessor,
    frames: ImageProcessor | None,
    placeholder: str,
    video_placeholder: str,
) -> VisualLayout:
    """Make a bundle's layout.

    Args:
        spec: What the manifest says of the vision side.
        images: Preprocesses images and crops.
        frames: Preprocesses the frames of videos; None where the model takes none.
        placeholder: The image token, as text.
        video_placeholder: The video token, as text; empty without videos.

    Raises:
        BundleError: A layout that this version does not know.
    """
    if spec.layout == "block":
        return BlockLayout(spec, images, placeholder)
    if spec.layout == "anyres":
        return AnyResLayout(spec, images, frames, placeholder, video_placeholder)
    raise BundleError(
        f"vision.layout | got {spec.layout!r} | expected one of anyres, block | install a newer "
        "sparsevlm-trt, or export the bundle again"
    )
