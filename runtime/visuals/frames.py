"""Videos whose frames each become a fixed number of tokens, frame after frame."""

from __future__ import annotations

from sparsevlm_trt.runtime.errors import InputError
from sparsevlm_trt.runtime.image_processor import ImageProcessor, Pixels
from sparsevlm_trt.runtime.model_spec import VisionSpec
from sparsevlm_trt.runtime.visuals.clip import Clip
from sparsevlm_trt.runtime.visuals.visual import Visual

__all__ = ["frame_pixels", "no_videos", "video_of_frames"]


def no_videos(clip: Clip) -> InputError:
    """Make the error of a model that takes no videos."""
    return InputError(
        f"videos | got one of {len(clip.frames)} frames | expected none: this model has no "
        "videos | give the frames as images"
    )


def frame_pixels(processor: ImageProcessor | None, clip: Clip) -> Pixels:
    """Bring every frame to the tower's size, `[frames, 3, h, w]`.

    Raises:
        InputError: The model takes no videos, or a frame cannot be used.
    """
    if processor is None:
        raise no_videos(clip)
    return processor(list(clip.frames))


def video_of_frames(
    spec: VisionSpec, processor: ImageProcessor | None, placeholder: str, clip: Clip
) -> Visual:
    """Read a video for the `video` graph, whose features are the tokens as they are.

    Raises:
        InputError: As `frame_pixels`.
    """
    pixels = frame_pixels(processor, clip)
    count = len(pixels) * spec.setting("frame_tokens")
    return Visual(
        kind="video",
        inputs={"pixel_values": pixels},
        num_rows=len(pixels),
        num_tokens=count,
        text=placeholder * count,
        size=spec.image_size,
        graph="video",
    )
