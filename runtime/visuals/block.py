"""One image, or frame, is one fixed block of visual tokens (LLaVA 1.5, Video-LLaVA)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from sparsevlm_trt.runtime.device_array import Tensor
from sparsevlm_trt.runtime.errors import InputError
from sparsevlm_trt.runtime.image_loader import ImageSource
from sparsevlm_trt.runtime.image_processor import ImageProcessor
from sparsevlm_trt.runtime.model_spec import VisionSpec
from sparsevlm_trt.runtime.visuals.clip import Clip
from sparsevlm_trt.runtime.visuals.frames import video_of_frames
from sparsevlm_trt.runtime.visuals.visual import Visual

__all__ = ["BlockLayout"]


@dataclass(frozen=True, slots=True)
class BlockLayout:
    """Every image has the same number of tokens, whatever its size; so has every frame."""

    spec: VisionSpec
    images: ImageProcessor
    frames: ImageProcessor | None
    placeholder: str
    video_placeholder: str

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
            num_rows=1,
            num_tokens=count,
            text=self.placeholder * count,
            size=self.spec.image_size,
        )

    def video(self, clip: Clip) -> Visual:
        """Bring every frame to the tower's size."""
        return video_of_frames(self.spec, self.frames, self.video_placeholder, clip)

    def pack(self, visual: Visual, outputs: Mapping[str, Tensor]) -> list[Tensor]:
        """Take the features as they are."""
        features = outputs["image_features"]
        return [features[row : row + 1] for row in range(visual.num_rows)]
