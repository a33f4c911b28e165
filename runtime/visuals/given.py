"""Images and videos in all the forms that a caller may give them in."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from sparsevlm_trt.runtime.visuals.clip import Clip

__all__ = ["listed_clips", "listed_images"]


def listed_images(images: Any) -> list[Any]:
    """Return the images as a list; one image stands for a list of one."""
    if images is None:
        return []
    return list(images) if isinstance(images, (list, tuple)) else [images]


def listed_clips(videos: Any) -> list[Clip]:
    """Return the videos; one video stands for a list of one, and a list of images for a video."""
    if videos is None:
        return []
    many = isinstance(videos, (list, tuple)) and all(
        isinstance(video, (list, tuple, Clip)) or _is_video(video) for video in videos
    )
    listed = list(videos) if many else [videos]
    return [_clip(video) for video in listed]


def _is_video(source: Any) -> bool:
    """Whether a path names something else than an image, by its ending."""
    from PIL import Image

    if not isinstance(source, (str, os.PathLike)):
        return False
    # Pillow knows the first bytes of MPEG files, and no picture of them.
    images = set(Image.registered_extensions()) - {".mpg", ".mpeg"}
    return Path(source).suffix.lower() not in images


def _clip(video: Any) -> Clip:
    """Take a clip, a list of frames, or the path of a file."""
    if isinstance(video, Clip):
        return video
    if isinstance(video, (list, tuple)):
        return Clip(list(video))
    from sparsevlm_trt.runtime.video_loader import load_video

    return load_video(video)
