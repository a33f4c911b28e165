"""The findings of an evaluation: each configuration, each pair, each question that flipped."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from sparsevlm_trt.runtime.evaluation.answers import Answer
from sparsevlm_trt.runtime.evaluation.configs import UNPRUNED, Config
from sparsevlm_trt.runtime.evaluation.cost import CostModel
from sparsevlm_trt.runtime.evaluation.intervals import Interval, Score, Scores
from sparsevlm_trt.runtime.evaluation.job import Job
from sparsevlm_trt.runtime.evaluation.metrics import Metric
from sparsevlm_trt.runtime.evaluation.paired import Difference, is_right, retained
from sparsevlm_trt.runtime.evaluation.questions import BrokenLine, Question

__all__ = [
    "PAPER_RETAINED",
    "Answered",
    "Findings",
    "Flip",
    "Pair",
    "Point",
    "find",
    "points_by_method",
    "unpruned_point",
]

# Share of the unpruned accuracy that is left, mean of eight benchmarks, LLaVA-1.5-7B.
# Source: SparseVLM (arXiv 2410.04417), its main table of accuracies.
PAPER_RETAINED = {192: 0.991, 128: 0.967, 64: 0.893}


@dataclass(frozen=True, slots=True)
class Point:
    """One configuration on all questions.

    Attributes:
        config: The configuration.
        label: Its name.
        score: Score on all questions.
        kinds: Score on the questions of each kind, in the order of the data; empty where there
            are fewer than two kinds.
        average_tokens: Visual tokens that a layer sees, mean of layers and questions.
        prefill_flops: Operations of the decoder's prefill, mean of the questions.
        total_flops: The same with vision and head.
        kv_bytes: Keys and values at the end of an answer, mean of the questions.
        first_token_ms: From the question to the first token, median of the questions.
        retained: Score as a share of the unpruned one; None without an unpruned score.
        retained_interval: Its paired bootstrap interval.
        paper_retained: The paper's figure for this budget, of another model and other data.
        versus_unpruned: Score minus the unpruned one; None where nothing was asked unpruned.
    """

    config: Config
    label: str
    score: Score
    kinds: Mapping[str, Score]
    average_tokens: float
    prefill_flops: float
    total_flops: float
    kv_bytes: float
    first_token_ms: float
    retained: float | None
    retained_interval: Interval | None
    paper_retained: float | None
    versus_unpruned: Difference | None


@dataclass(frozen=True, slots=True)
class Pair:
    """Two methods at the same budget."""

    plan: str
    first: str
    second: str
    difference: Difference


@dataclass(frozen=True, slots=True)
class Flip:
    """A question that is right unpruned and wrong pruned, or the other way round."""

    id: str
    line: int
    config: str
    kind: str
    question: str
    accepted: tuple[str, ...]
    unpruned: str
    pruned: str
    gained: bool


@dataclass(frozen=True, slots=True)
class Answered:
    """All answers of the questions that were asked everywhere.

    Attributes:
        questions: The questions.
        answers: The answer of each, by configuration.
    """

    questions: tuple[Question, ...]
    answers: Mapping[Config, tuple[Answer, ...]]

    @classmethod
    def of(cls, job: Job, known: Mapping[str, Answer]) -> Answered:
        """Gather the answers of a job; a question that lacks one is left out everywhere."""
        key = job.settings.key
        asked = tuple(
            question
            for question in job.data.questions
            if all(key(question, config) in known for config in job.configs)
        )
        rows = {
            config: tuple(known[key(question, config)] for question in asked)
            for config in job.configs
        }
        return cls(asked, rows)


@dataclass(frozen=True, slots=True)
class Findings:
    """What an evaluation found.

    Attributes:
        num_questions: Questions that count.
        points: One for each configuration, unpruned first.
        pairs: The first method against each other one, at each budget.
        flips: The questions that flipped, by configuration and then in the order of the data.
        broken: Lines that were left out.
    """

    num_questions: int
    points: tuple[Point, ...]
    pairs: tuple[Pair, ...]
    flips: tuple[Flip, ...]
    broken: tuple[BrokenLine, ...]


def find(
    answered: Answered, metric: Metric, costs: CostModel, broken: Sequence[BrokenLine] = ()
) -> Findings:
    """Score the answers and compare the configurations.

    Args:
        answered: One question or more.
        metric: Scores an answer.
        costs: Counts what an answer cost.
        broken: Lines that were left out.

    Raises:
        InputError: A metric of the caller's failed.
    """
    scores = {
        config: np.array(
            [
                metric(question, answer.text)
                for question, answer in zip(answered.questions, answers, strict=True)
            ],
            np.float64,
        )
        for config, answers in answered.answers.items()
    }
    return Findings(
        num_questions=len(answered.questions),
        points=tuple(_point(config, answered, scores, costs) for config in scores),
        pairs=tuple(_pairs(scores)),
        flips=tuple(itertools.chain(*(_flips(config, answered, scores) for config in scores))),
        broken=tuple(broken),
    )


def unpruned_point(rows: Iterable[Point]) -> Point | None:
    """Find the unpruned model among points."""
    return next((point for point in rows if point.config == UNPRUNED), None)


def points_by_method(rows: Iterable[Point]) -> dict[str, list[Point]]:
    """Group the pruned points by their method, in the order of the sweep."""
    groups: dict[str, list[Point]] = {}
    for point in rows:
        if point.config != UNPRUNED:
            groups.setdefault(point.config.method, []).append(point)
    return groups


def _point(
    config: Config, answered: Answered, scores: Mapping[Config, Scores], costs: CostModel
) -> Point:
    answers, own, unpruned = answered.answers[config], scores[config], scores.get(UNPRUNED)
    kinds = np.array([question.kind for question in answered.questions])
    names = list(dict.fromkeys(kinds.tolist()))
    spent = [costs.of(answer) for answer in answers]
    pruned = unpruned is not None and config != UNPRUNED
    left = retained(own, unpruned) if pruned and unpruned is not None else None
    paper = PAPER_RETAINED.get(config.budget or 0) if config.method == "sparsevlm" else None
    return Point(
        config=config,
        label=config.label,
        score=Score.of(own),
        kinds={name: Score.of(own[kinds == name]) for name in names} if len(names) > 1 else {},
        average_tokens=statistics.fmean(cost.average_tokens for cost in spent),
        prefill_flops=statistics.fmean(cost.prefill_flops for cost in spent),
        total_flops=statistics.fmean(cost.total_flops for cost in spent),
        kv_bytes=statistics.fmean(answer.kv_bytes for answer in answers),
        first_token_ms=statistics.median(answer.first_token_ms for answer in answers),
        retained=left[0] if left else None,
        retained_interval=left[1] if left else None,
        paper_retained=paper,
        versus_unpruned=Difference.of(own, unpruned) if pruned and unpruned is not None else None,
    )


def _pairs(scores: Mapping[Config, Scores]) -> list[Pair]:
    """Compare the first method of each budget with the others there."""
    pruned = [config for config in scores if config != UNPRUNED]
    pairs = []
    for plan, group in itertools.groupby(pruned, key=lambda config: config.plan):
        first, *others = group
        for other in others:
            difference = Difference.of(scores[first], scores[other])
            pairs.append(Pair(plan, first.method, other.method, difference))
    return pairs


def _flips(config: Config, answered: Answered, scores: Mapping[Config, Scores]) -> list[Flip]:
    if UNPRUNED not in scores:
        return []
    before, after = is_right(scores[UNPRUNED]), is_right(scores[config])
    flips = []
    for index in np.flatnonzero(before != after):
        question = answered.questions[index]
        flips.append(
            Flip(
                id=question.id,
                line=question.line,
                config=config.label,
                kind=question.kind,
                question=question.text,
                accepted=question.answers,
                unpruned=answered.answers[UNPRUNED][index].text,
                pruned=answered.answers[config][index].text,
                gained=bool(after[index]),
            )
        )
    return flips
