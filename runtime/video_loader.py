"""Take frames out of a video file; the decoding is PyAV's, an optional package."""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from sparsevlm_trt.runtime.errors import InputError
from sparsevlm_trt.runtime.extras import load_attribute
from sparsevlm_trt.runtime.visuals.clip import Clip

__all__ = ["NUM_FRAMES", "load_video", "sampled_indices"]

# What Video-LLaVA was trained with; more cost as many times the tokens.
NUM_FRAMES = 8


def load_video(path: str | os.PathLike[str], num_frames: int = NUM_FRAMES) -> Clip:
    """Sample frames of a file, evenly from its first.

    Args:
        path: A video file that FFmpeg reads.
        num_frames: How many; a shorter video gives all it has.

    Raises:
        InputError: The file cannot be read, or has no frames; a wrong number.
        MissingPackageError: PyAV is not installed.
    """
    if num_frames < 1:
        raise InputError(
            f"video | got {num_frames} frames | expected 1 or more | ask for at least one"
        )
    open_container = load_attribute("av:open", extra="video", who="videos from a file")
    try:
        with open_container(os.fspath(path)) as container:
            return _sampled(container, num_frames)
    except InputError as error:
        raise InputError(f"video {os.fspath(path)} | {error}") from None
    except Exception as error:  # PyAV has an error of its own for each of FFmpeg's
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise InputError(
            f"video {os.fspath(path)} | got {reason} | expected a readable video file | check "
            "the path and the file"
        ) from error


def sampled_indices(num_all: int, num_frames: int) -> list[int]:
    """Which frames to take of `num_all`, ascending.

    Source: transformers 5.24, `BaseVideoProcessor.sample_frames`.
    """
    if num_frames >= num_all:
        return list(range(num_all))
    steps = np.arange(0, num_all, num_all / num_frames)[:num_frames]
    return [int(step) for step in steps]


def _sampled(container: Any, num_frames: int) -> Clip:
    if not container.streams.video:
        raise InputError("got no video stream | expected one | give a video")
    stream = container.streams.video[0]
    num_all = stream.frames or sum(1 for _ in container.decode(stream))
    if not stream.frames:  # the file does not say: it was counted, so begin again
        container.seek(0)
    wanted = set(sampled_indices(num_all, num_frames))
    found = [
        (number, frame.to_image())
        for number, frame in enumerate(container.decode(stream))
        if number in wanted
    ]
    frames = [frame for _, frame in found]
    if not frames:
        raise InputError("got no frame | expected at least one | give a whole video")
    rate = float(stream.average_rate or 1)
    shown = [number / rate for number, _ in found]
    return Clip(frames, rate * len(frames) / num_all, shown, num_all / rate)
