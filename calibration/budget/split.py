"""Questions to search on, and others that only the last comparison sees."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from sparsevlm_trt.runtime.errors import InputError
from sparsevlm_trt.runtime.evaluation.questions import Question

__all__ = ["Halves", "split_by_image"]


@dataclass(frozen=True, slots=True)
class Halves:
    """Two sets of questions that share no image.

    Attributes:
        search: What the search asks, in a shuffled order, so that its first ones are a sample.
        heldout: What only the winner and the default are compared on.
    """

    search: tuple[Question, ...]
    heldout: tuple[Question, ...]


def split_by_image(questions: Sequence[Question], seed: int = 0) -> Halves:
    """Split questions in two halves of nearly equal size; an image's questions stay together.

    The same questions and seed make the same halves, in whatever order they come.

    Raises:
        InputError: There is one image only.
    """
    by_image: dict[str, list[Question]] = {}
    for question in questions:
        by_image.setdefault(question.image_sha256, []).append(question)
    if len(by_image) < 2:
        raise InputError(
            f"data | all {len(questions)} questions are about one image | expected 2 images or "
            "more, better 100 | the halves that search and compare may not share one: give others"
        )
    halves: tuple[list[Question], list[Question]] = ([], [])
    for image in sorted(by_image, key=lambda image: _draw(seed, image)):
        min(halves, key=len).extend(by_image[image])  # the first at a tie
    search, heldout = (
        tuple(sorted(half, key=lambda one: _draw(seed, one.image_sha256, one.asked())))
        for half in halves
    )
    return Halves(search, heldout)


def _draw(*parts: object) -> str:
    """Give a place in a shuffled order that depends on nothing but the parts."""
    return hashlib.sha256("\n".join(map(str, parts)).encode()).hexdigest()
