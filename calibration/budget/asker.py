"""Asks questions with schedules; every answer is kept in a file and made once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from sparsevlm_trt.calibration.budget.choice import Choice
from sparsevlm_trt.runtime.bundle import Bundle
from sparsevlm_trt.runtime.closing import Closing
from sparsevlm_trt.runtime.errors import InputError
from sparsevlm_trt.runtime.evaluation.answers import Answer, AnswerFile
from sparsevlm_trt.runtime.evaluation.configs import UNPRUNED, Config, plan_configs
from sparsevlm_trt.runtime.evaluation.job import Job, Settings
from sparsevlm_trt.runtime.evaluation.meter import Meter
from sparsevlm_trt.runtime.evaluation.questions import Question, QuestionSet
from sparsevlm_trt.runtime.evaluation.sweep import sweep
from sparsevlm_trt.runtime.session import Session

__all__ = ["Asker"]

Floats = NDArray[np.float64]

# Nats. From ln 2 on another token may be likelier: far above that an answer is lost, and how far
# says nothing. So one question does not outweigh ten.
MOST_LOSS = 3.0


class Asker(Closing):
    """Gives answers by question and schedule, from the file or from the model.

    The model is loaded when the first answer is missing.

    Attributes:
        num_made: Answers that this run made; the others were in the file.
    """

    def __init__(
        self,
        bundle: Bundle,
        data: QuestionSet,
        settings: Settings,
        file: AnswerFile,
        load: Callable[[], Session],
    ) -> None:
        """Take what to ask of what, where answers are kept, and how the model is loaded."""
        self._bundle, self._data, self._settings = bundle, data, settings
        self._file, self._load = file, load
        self._opened = ExitStack()
        self._session: Session | None = None
        self.num_made = 0

    def answers(
        self, phase: str, questions: Sequence[Question], choices: Sequence[Choice]
    ) -> list[list[Answer]]:
        """Answer questions unpruned and by some schedules.

        Args:
            phase: What the progress says.
            questions: The questions.
            choices: The schedules.

        Returns:
            The unpruned answers, then those of each schedule, in the order of the questions.

        Raises:
            InputError: A question cannot be asked.
            PlanError: The bundle cannot follow a schedule.
            RunnerError: A graph failed.
        """
        configs = (UNPRUNED, *(self._config(choice) for choice in choices))
        job = Job(
            self._bundle,
            replace(self._data, questions=tuple(questions)),
            tuple(dict.fromkeys(configs)),
            self._settings,
        )
        missing = len(job.keys - self._file.answers.keys())
        if missing:
            if self._session is None:
                self._session = self._opened.enter_context(self._load())
            with Meter(missing, 0, phase) as meter:
                sweep(self._session, job, self._file, progress=meter)
            self.num_made += missing
        key, known = self._settings.key, self._file.answers
        return [[known[key(question, config)] for question in questions] for config in configs]

    def losses(
        self, phase: str, questions: Sequence[Question], choices: Sequence[Choice]
    ) -> Floats:
        """Answer losses above the unpruned model's own, `[choices, questions]`, in nats."""
        unpruned, *rows = self.answers(phase, questions, choices)
        return np.array(
            [
                [_above(answer, base) for answer, base in zip(row, unpruned, strict=True)]
                for row in rows
            ],
            np.float64,
        )

    def close(self) -> None:
        """Free the model."""
        self._opened.close()

    def _config(self, choice: Choice) -> Config:
        made = plan_configs(self._bundle.manifest, [choice.method], [], [choice.schedule.spell()])
        return made[0]


def _above(answer: Answer, unpruned: Answer) -> float:
    """How much less likely the unpruned answer has become, in nats.

    The tokens that both give count, and the first that differs.

    Raises:
        InputError: An answer was made without its losses.
    """
    if answer.losses is None or unpruned.losses is None:
        raise InputError(
            f"answers | {answer.id} in {answer.config} has no losses | expected answers of "
            "calibrate budget | choose another folder: --out DIR"
        )
    pairs = zip(answer.losses, unpruned.losses, strict=False)
    above = sum(ours - base for ours, base in pairs)
    return max(-MOST_LOSS, min(MOST_LOSS, above))
