"""One image is one fixed block of visual tokens (LLaVA 1.5)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sparsevlm_trt.runtime.device_array import Tensor
from sparsevlm_trt.runtime.errors import InputError
from sparsevlm_trt.runtime.image_loader import ImageSource
from sparsevlm_trt.runtime.image_processor import ImageProcessor
from sparsevlm_trt.runtime.manifest import VisionSpec
from sparsevlm_trt.runtime.visuals.visual import Visual

__all__ = ["BlockLayout"]


@dataclass(frozen=True, slots=True)
class BlockLayout:
    """Every image has the same number of tokens, whatever its size."""

    spec: VisionSpec
    images: ImageProcessor
    placeholder: str

    def image(self, source: ImageSource, alone: bool) -> Visual:
        """Bring an image to the tower's size."""
        pixels = self.images([source])
        if pixels.shape[2:] != self.spec.image_size:
            raise InputError(
                f"images | got {list(pixels.shape[2:])} pixels after preprocessing | expected "
                f"{list(self.spec.image_size)} | export the bundle again: its preprocessing and "
                "its vision graph disagree"
            )
        count = self.spec.num_visual
        return Visual(
            kind="image",
            inputs={"pixel_values": pixels},
            num_tokens=count,
            text=self.placeholder * count,
            size=self.spec.image_size,
        )

    def video(self, frames: Sequence[ImageSource]) -> Visual:
        """Refuse: there is no such model."""
        raise InputError(
            f"videos | got one of {len(frames)} frames | expected none: this model has no videos "
            "| give the frames as images"
        )

    def pack(self, visual: Visual, outputs: Mapping[str, Tensor]) -> list[Tensor]:
        """Take the features as they are."""
        features = outputs["image_features"]
        return [features[row : row + 1] for row in range(visual.num_rows)]
