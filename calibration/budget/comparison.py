"""Schedules measured on questions, and the found one against the default on held-out ones."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from sparsevlm_trt.calibration.budget.asker import Asker
from sparsevlm_trt.calibration.budget.choice import Choice
from sparsevlm_trt.calibration.budget.findings import Comparison, Measured, Retained, Role
from sparsevlm_trt.calibration.budget.ranking import Forecast
from sparsevlm_trt.runtime.evaluation.intervals import Score, bootstrap
from sparsevlm_trt.runtime.evaluation.metrics import Metric
from sparsevlm_trt.runtime.evaluation.paired import Difference, retained
from sparsevlm_trt.runtime.evaluation.questions import Question

__all__ = ["compare", "measure"]

Floats = NDArray[np.float64]


def measure(
    asker: Asker,
    phase: str,
    questions: Sequence[Question],
    metric: Metric,
    rungs: Sequence[tuple[Role, Forecast]],
) -> list[Measured]:
    """Ask questions unpruned and by some schedules; the unpruned model comes first.

    Raises:
        InputError: A question cannot be asked, or a metric of the caller's failed.
        RunnerError: A graph failed.
    """
    return [one for one, _, _ in _measure(asker, phase, questions, metric, rungs)]


def compare(
    asker: Asker,
    questions: Sequence[Question],
    metric: Metric,
    found: Forecast,
    default: Forecast | None,
) -> Comparison:
    """Hold the found schedule against the default, question by question.

    Raises:
        InputError: A question cannot be asked, or a metric of the caller's failed.
        RunnerError: A graph failed.
    """
    rungs: list[tuple[Role, Forecast]] = [("found", found)]
    if default is not None:
        rungs.append(("default", default))
    (base, base_scores, _), (ours, scores, losses), *rest = _measure(
        asker, "held out", questions, metric, rungs
    )
    rule, difference, loss_difference, loss_interval = None, None, None, None
    rule_left = None
    if rest:
        rule, rule_scores, rule_losses = rest[0]
        difference = Difference.of(scores, rule_scores)
        rule_left = _left(rule_scores, base_scores)
        delta = losses - rule_losses
        loss_difference, loss_interval = float(delta.mean()), bootstrap(delta)
    return Comparison(
        unpruned=base,
        found=ours,
        default=rule,
        difference=difference,
        loss_difference=loss_difference,
        loss_interval=loss_interval,
        retained=_left(scores, base_scores),
        default_retained=rule_left,
    )


def _left(scores: Floats, unpruned: Floats) -> Retained | None:
    found = retained(scores, unpruned)
    return None if found is None else Retained(*found)


def _measure(
    asker: Asker,
    phase: str,
    questions: Sequence[Question],
    metric: Metric,
    rungs: Sequence[tuple[Role, Forecast]],
) -> list[tuple[Measured, Floats, Floats]]:
    """Measure; with the score and the loss of each question, `[n]`."""
    choices = [forecast.choice for _, forecast in rungs]
    answers = asker.answers(phase, questions, choices)
    losses = [np.zeros(len(questions)), *asker.losses(phase, questions, choices)]
    named: list[tuple[Role, Choice | None, float]] = [("unpruned", None, 1.0)]
    named += [(role, forecast.choice, forecast.share) for role, forecast in rungs]
    made = []
    for (role, choice, share), row, loss in zip(named, answers, losses, strict=True):
        pairs = zip(questions, row, strict=True)
        scores = np.array([metric(question, answer.text) for question, answer in pairs])
        measured = Measured(
            role=role,
            choice=choice,
            share=share,
            score=Score.of(scores),
            loss=float(loss.mean()),
            loss_interval=bootstrap(loss),
            first_token_ms=statistics.median(answer.first_token_ms for answer in row),
        )
        made.append((measured, scores, loss))
    return made
