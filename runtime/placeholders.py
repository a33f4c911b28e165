"""What stands in a prompt for an image or a video, and what takes its place."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from sparsevlm_trt.runtime.errors import InputError
from sparsevlm_trt.runtime.model_spec import VisionSpec
from sparsevlm_trt.runtime.processor import Processor
from sparsevlm_trt.runtime.visuals.clip import Clip

if TYPE_CHECKING:  # importing Pillow takes time that arrays do not need
    from sparsevlm_trt.runtime.visuals.visual import Visual

__all__ = ["placeholder_ids", "put_visuals"]


def placeholder_ids(vision: VisionSpec | None) -> list[int]:
    """Ids of the tokens that stand for features."""
    if vision is None:
        return []
    ids = (vision.image_token_id, vision.video_token_id)
    return [token for token in ids if token is not None]


def put_visuals(
    processor: Processor, text: str, images: list[Any], clips: list[Clip]
) -> tuple[str, tuple[Visual, ...]]:
    """Put into the text, for each placeholder, what its image or video becomes.

    Args:
        processor: Knows the placeholders, and what becomes of them.
        text: The prompt.
        images: As many as it has placeholders for images, in their order.
        clips: As many as it has placeholders for videos.

    Returns:
        The text, and its images and videos in the order of their placeholders.

    Raises:
        InputError: There are more or fewer placeholders than images or videos.
    """
    marks = processor.placeholders
    pattern = "|".join(f"({re.escape(mark)})" for mark in marks if mark)
    found = [match.group() for match in re.finditer(pattern, text)] if pattern else []
    for mark, given, what in zip(marks, (images, clips), ("image", "video"), strict=True):
        count = found.count(mark)
        if count != len(given) and (mark or given):
            spelled = f"write {mark} for each {what}, or" if mark else "use"
            raise InputError(
                f"prompt | got {count} {what} placeholders and {len(given)} {what}s | expected "
                f'as many placeholders as {what}s | {spelled} a message part {{"type": "{what}"}}'
            )
    if not found:
        return text, ()
    layout = processor.layout
    alone = len(images) == 1
    stills = [layout.image(image, alone) for image in images]
    films = [layout.video(clip) for clip in clips]
    sources = {marks[0]: iter(stills), marks[1]: iter(films)}
    visuals = tuple(next(sources[mark]) for mark in found)
    made = iter(visuals)
    return re.sub(pattern, lambda _: next(made).text, text), visuals
