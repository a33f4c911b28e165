"""The data of a calibration: questions as `evaluate` takes them, looked at for what misleads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sparsevlm_trt.runtime.errors import InputError
from sparsevlm_trt.runtime.evaluation.questions import Question, QuestionSet, read_questions
from sparsevlm_trt.runtime.image_loader import load_image

__all__ = ["Samples", "read_samples"]

FEW_IMAGES = 8  # below it, ranges rest on too little to be trusted
FLAT = 2.0  # grey levels of 255 that an image's pixels differ by, at least, to show something


@dataclass(frozen=True, slots=True)
class Samples:
    """Questions to calibrate on.

    Attributes:
        data: The file as it was read.
        warnings: What makes it poor data, one sentence each.
    """

    data: QuestionSet
    warnings: tuple[str, ...]

    @property
    def questions(self) -> Sequence[Question]:
        """The questions, in the order of the file."""
        return self.data.questions


def read_samples(path: Path, limit: int | None = None) -> Samples:
    """Read the data and look at its images.

    Args:
        path: JSON lines, see docs/evaluate.md.
        limit: Use so many questions at most.

    Raises:
        InputError: The file or an image cannot be read, there is one question only, or no image
            shows anything.
    """
    data = read_questions(path, limit=limit)
    where = f"calibration data {path}"
    if len(data.questions) < 2:
        raise InputError(
            f"{where} | got {len(data.questions)} question | expected 2 or more, better "
            "32 | ranges of one prompt are no ranges: give more"
        )
    spreads = {question.image: _spread(question.image) for question in data.questions}
    images = {question.image_sha256 for question in data.questions}
    flat = sorted(path.name for path, spread in spreads.items() if spread < FLAT)
    if len(flat) == len(spreads):
        raise InputError(
            f"{where} | all {len(flat)} images are of one colour ({flat[0]}) | expected images "
            "like those of the deployment | give others"
        )
    warnings = []
    if flat:
        warnings.append(
            f"{where} | {len(flat)} of {len(spreads)} images are of one colour: "
            f"{', '.join(flat[:3])}"
        )
    if len(images) < FEW_IMAGES:
        warnings.append(
            f"{where} | {len(images)} different images | {FEW_IMAGES} or more make "
            "ranges that hold for others"
        )
    return Samples(data, tuple(warnings))


def _spread(path: Path) -> float:
    """Standard deviation of an image's pixels, in grey levels."""
    return float(np.asarray(load_image(path), np.float32).std(axis=(0, 1)).max())
