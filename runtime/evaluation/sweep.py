"""All questions in all configurations, in a fixed order, resumed where it was left."""

from __future__ import annotations

from collections.abc import Callable

from sparsevlm_trt.runtime.errors import InputError
from sparsevlm_trt.runtime.evaluation.answers import Answer, AnswerFile
from sparsevlm_trt.runtime.evaluation.asking import ask
from sparsevlm_trt.runtime.evaluation.job import Job
from sparsevlm_trt.runtime.evaluation.questions import BrokenLine, Question
from sparsevlm_trt.runtime.session import Session

__all__ = ["sweep"]


def sweep(
    session: Session,
    job: Job,
    file: AnswerFile,
    *,
    skip_broken: bool = False,
    progress: Callable[[Answer], None] = lambda _: None,
) -> tuple[BrokenLine, ...]:
    """Make every answer that the file does not hold yet; all of one question, then the next.

    Args:
        session: Answers, with the job's bundle.
        job: What to ask.
        file: Takes each answer as it is made.
        skip_broken: Leave out a question whose image or prompt cannot be used.
        progress: Called after each answer.

    Returns:
        The questions that were left out.

    Raises:
        InputError: An image or prompt cannot be used, unless skipped.
        RunnerError: A graph failed.
    """
    broken = []
    for question in job.data.questions:
        problem = _ask(session, question, job, file, progress)
        if problem is None:
            continue
        if not skip_broken:
            raise InputError(
                f"data line {question.line} | {problem}, or skip it: --on-error skip"
            ) from problem
        broken.append(BrokenLine(question.line, str(problem)))
    return tuple(broken)


def _ask(
    session: Session,
    question: Question,
    job: Job,
    file: AnswerFile,
    progress: Callable[[Answer], None],
) -> InputError | None:
    """Make the answers of one question; return what is wrong with it, if anything is."""
    answers = ask(session, question, job.configs, job.settings, file.answers)
    while True:
        try:
            answer = next(answers)
        except StopIteration:
            return None
        except InputError as error:
            return error
        file.append(answer)  # outside: a full disk is no fault of the question
        progress(answer)
