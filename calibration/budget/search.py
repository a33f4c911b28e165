"""The search: sensitivity, prediction, a race at the limit, and a comparison on held-out data.

Prefills for n questions and one method: n / 2 unpruned, some 600 for the sensitivity, 300 for the
ladder and 700 for the race, 3 n / 2 held out; for a target accuracy up to 5 n / 2 more.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from sparsevlm_ops.schedule import Schedule
from sparsevlm_trt.calibration.budget.asker import Asker
from sparsevlm_trt.calibration.budget.choice import Choice
from sparsevlm_trt.calibration.budget.comparison import compare, measure
from sparsevlm_trt.calibration.budget.findings import Findings, Measured, Role, Target
from sparsevlm_trt.calibration.budget.first_token import share_of_time
from sparsevlm_trt.calibration.budget.race import Placing, race
from sparsevlm_trt.calibration.budget.ranking import Forecast, Ranking
from sparsevlm_trt.calibration.budget.sensitivity import (
    KEPT_SHARES,
    Sensitivity,
    SensitivityTable,
)
from sparsevlm_trt.calibration.budget.space import Space
from sparsevlm_trt.calibration.budget.split import Halves
from sparsevlm_trt.runtime.errors import InputError
from sparsevlm_trt.runtime.evaluation.answers import Answer
from sparsevlm_trt.runtime.evaluation.metrics import Metric
from sparsevlm_trt.runtime.evaluation.paired import is_right
from sparsevlm_trt.runtime.evaluation.questions import Question

__all__ = ["Search"]

Floats = NDArray[np.float64]

# Prefills that a method's sensitivity may take: so many questions, fewer where there are many
# boundaries, but never so few that chance rules.
SENSITIVITY_PREFILLS, MOST_QUESTIONS, FEWEST_QUESTIONS = 600, 32, 8
LADDER_QUESTIONS = 32
LADDER = (0.75, 0.5, 0.35, 0.25)  # shares of the operations that the Pareto chart shows measured
FRONT_POINTS = 24
CONTENDERS = 5  # by the prediction; the default joins them
HEAT_QUESTIONS = 48  # of the first race
LEADERS = 2  # that its neighbours join in the second
ACCURACY_STEPS = 5
ROUNDING = 1.01  # a budget of whole tokens may pass the limit by so much


class Search:
    """A search on one bundle and one split of the questions."""

    def __init__(
        self,
        spaces: Sequence[Space],
        default: Space,
        asker: Asker,
        metric: Metric,
        halves: Halves,
    ) -> None:
        """Take the spaces of the methods, and that of the default's; of one prompt shape."""
        self._spaces, self._rule, self._asker = spaces, default, asker
        self._metric, self._halves = metric, halves
        unpruned = asker.answers("unpruned", halves.search, [])[0]
        self._base = self._scores(halves.search, unpruned)
        right = is_right(self._base)
        # What the unpruned model has wrong, pruning cannot spoil.
        chosen = right if right.any() else np.ones(len(right), bool)
        self._counted = [halves.search[i] for i in np.flatnonzero(chosen)]

    def run(self, target: Target) -> Findings:
        """Search.

        Raises:
            InputError: No schedule reaches the target, or a question cannot be asked.
            RunnerError: A graph failed.
        """
        measures, times = self._sensitivity()
        tables = [SensitivityTable(space, measures[space.method.name]) for space in self._spaces]
        ranking = Ranking(self._spaces, tables)
        limit = self._limit(target, ranking, times)
        ladder = self._ladder(ranking, limit)
        placed = self._race(ranking, limit)
        default = self._default(limit)
        rule = None if default is None else default.choice
        is_default = placed[0].contender.choice == rule
        others = [one.contender for one in placed if one.contender.choice != rule]
        found = others[0] if others else placed[0].contender  # there may be one schedule only
        chosen = placed[0].contender
        if target.kind == "accuracy" and self._left(chosen.choice, target.value) < target.value:
            chosen = found = ranking.best(limit, 1)[0]  # which was seen to reach it
            is_default = False
        equal = default if is_default else self._default(found.share)
        return Findings(
            target=target,
            limit=limit,
            num_visual=self._rule.num_visual,
            num_text=self._rule.num_text,
            num_search=len(self._halves.search),
            num_counted=len(self._counted),
            sensitivity=measures,
            front=tuple(self._front(ranking)),
            ladder=tuple(ladder),
            race=tuple(placed),
            chosen=chosen.choice,
            chosen_role="default" if is_default else "found",
            comparison=compare(self._asker, self._halves.heldout, self._metric, found, equal),
        )

    def _sensitivity(
        self,
    ) -> tuple[dict[str, tuple[Sensitivity, ...]], list[tuple[float, float]]]:
        """Prune at each boundary alone; also gives (share, ms to the first token) of each."""
        affordable = SENSITIVITY_PREFILLS // (len(KEPT_SHARES) * len(self._rule.layers))
        num = min(MOST_QUESTIONS, max(FEWEST_QUESTIONS, affordable))
        questions = self._counted[:num]
        measures: dict[str, tuple[Sensitivity, ...]] = {}
        times: list[tuple[float, float]] = []
        for space in self._spaces:
            name = space.method.name
            counts = sorted({max(1, round(share * space.num_visual)) for share in KEPT_SHARES})
            points = [(layer, kept) for layer in space.layers for kept in counts]
            choices = [Choice(name, Schedule.of({layer: kept})) for layer, kept in points]
            unpruned, *rows = self._asker.answers(f"sensitivity of {name}", questions, choices)
            losses = self._asker.losses(name, questions, choices).mean(axis=1)
            measures[name] = tuple(
                Sensitivity(layer, kept, float(loss))
                for (layer, kept), loss in zip(points, losses, strict=True)
            )
            times.append((1.0, _median_ms(unpruned)))
            times += [
                (space.share(choice.schedule), _median_ms(row))
                for choice, row in zip(choices, rows, strict=True)
            ]
        return measures, times

    def _limit(
        self, target: Target, ranking: Ranking, times: Sequence[tuple[float, float]]
    ) -> float:
        """Turn the target into a share of the operations that some schedule takes."""
        if target.kind == "accuracy":
            return self._limit_of_accuracy(target.value, ranking)
        limit = target.value
        if target.kind == "ttft":
            limit = share_of_time(target.value, *zip(*times, strict=True))
        if limit < ranking.least:
            meant = f", {max(0.0, limit):.1%} of the operations" if target.kind == "ttft" else ""
            raise InputError(
                f"target-{target.kind} | got {target.spell()}{meant} | expected at least "
                f"{ranking.least:.1%} of the operations, which the cheapest schedule on this "
                "bundle's boundaries takes | ask for less, or export with earlier --boundaries"
            )
        return limit

    def _limit_of_accuracy(self, least: float, ranking: Ranking) -> float:
        """Bisect the operations for the fewest that leave enough of the score."""
        if not self._base.any():
            raise InputError(
                "target-accuracy | the unpruned model has no question right | expected a score to "
                "keep a share of | check the accepted answers and the metric"
            )
        low, high, reached, best = ranking.least, 1.0, None, 0.0
        for _ in range(ACCURACY_STEPS):
            middle = math.sqrt(low * high)
            forecast = ranking.best(middle, 1)[0]
            left = self._left(forecast.choice, least)
            best = max(best, left)
            if left >= least:
                reached = high = middle
            else:
                low = middle
        if reached is None:
            raise InputError(
                f"target-accuracy | the best schedule leaves {best:.1%} at most of the unpruned "
                f"score | expected {least:.1%} | ask for less, or export with more boundaries"
            )
        return reached

    def _left(self, choice: Choice, least: float) -> float:
        """Share of the unpruned score that a schedule leaves on all questions of the search.

        A third of them is asked at a time. Where `least` is out of reach already, the rest is
        not, and the share is what it could be at most.
        """
        questions, num = self._halves.search, len(self._halves.search)
        for asked in (num // 3, 2 * num // 3, num):
            answers = self._asker.answers("accuracy", questions[:asked], [choice])[1]
            scores = self._scores(questions[:asked], answers)
            left = float((scores.sum() + num - asked) / self._base.sum())
            if left < least:
                break
        return left

    def _ladder(self, ranking: Ranking, limit: float) -> list[Measured]:
        """Measure the best schedule of some shares, and the default at each."""
        shares = sorted({limit, *(share for share in LADDER if share >= ranking.least)})
        rungs: list[tuple[Role, Forecast]] = []
        for share in shares:
            rungs.append(("found", ranking.best(share, 1)[0]))
            default = self._default(share)
            if default is not None:
                rungs.append(("default", default))
        questions = self._halves.search[:LADDER_QUESTIONS]
        return measure(self._asker, "ladder", questions, self._metric, rungs)

    def _race(self, ranking: Ranking, limit: float) -> list[Placing[Forecast]]:
        """Race the best by the prediction, then the leaders and the first one's neighbours."""
        default = self._default(limit)
        rule = [] if default is None or default.share > limit * ROUNDING else [default]

        def losses(field: Sequence[Forecast], num: int) -> Floats:
            phase = f"race of {len(field)}"
            choices = [one.choice for one in field]
            return self._asker.losses(phase, self._counted[:num], choices)

        contenders = _distinct([*rule, *ranking.best(limit, CONTENDERS)])
        heat = race(contenders, losses, min(HEAT_QUESTIONS, len(self._counted)))
        leaders = [one.contender for one in heat[:LEADERS]]
        near = self._neighbours(leaders[0], limit)
        final = race(_distinct([*rule, *leaders, *near]), losses, len(self._counted))
        raced = {one.contender.choice for one in final}
        return final + [one for one in heat if one.contender.choice not in raced]

    def _neighbours(self, leader: Forecast, limit: float) -> list[Forecast]:
        method = leader.choice.method
        space = next(one for one in (*self._spaces, self._rule) if one.method.name == method)
        return [
            Forecast(Choice(method, schedule), space.share(schedule), None)
            for schedule in space.neighbours(leader.choice.schedule, limit)
        ]

    def _default(self, share: float) -> Forecast | None:
        """The budget rule's schedule of nearly a share, of the default method."""
        schedule = self._rule.default(share)
        if schedule is None:
            return None
        choice = Choice(self._rule.method.name, schedule)
        return Forecast(choice, self._rule.share(schedule), None)

    def _front(self, ranking: Ranking) -> list[Forecast]:
        shares = np.geomspace(ranking.least, 1.0, FRONT_POINTS)
        made = [ranking.best(float(share) * (1 + 1e-9), 1)[0] for share in shares]
        return list({one.choice: one for one in made}.values())

    def _scores(self, questions: Sequence[Question], answers: Sequence[Answer]) -> Floats:
        pairs = zip(questions, answers, strict=True)
        return np.array([self._metric(question, answer.text) for question, answer in pairs])


def _median_ms(answers: Sequence[Answer]) -> float:
    return statistics.median(answer.first_token_ms for answer in answers)


def _distinct(forecasts: Sequence[Forecast]) -> list[Forecast]:
    """Leave out what is there already, under whatever name."""
    return list({one.choice: one for one in reversed(forecasts)}.values())[::-1]
