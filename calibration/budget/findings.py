"""What a search for a schedule found, as its report tells it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from sparsevlm_trt.calibration.budget.choice import Choice
from sparsevlm_trt.calibration.budget.race import Placing
from sparsevlm_trt.calibration.budget.ranking import Forecast
from sparsevlm_trt.calibration.budget.sensitivity import Sensitivity
from sparsevlm_trt.runtime.evaluation.intervals import Interval, Score
from sparsevlm_trt.runtime.evaluation.paired import Difference

__all__ = ["Comparison", "Findings", "Measured", "Retained", "Role", "Target"]

Role = Literal["unpruned", "found", "default"]


@dataclass(frozen=True, slots=True)
class Target:
    """What the schedule must reach.

    Attributes:
        kind: "accuracy": the least share of the unpruned score that is left, with as few
            operations as possible. "ttft": the longest time to the first token, in ms. "flops":
            the largest share of the unpruned prefill's operations.
        value: How much.
    """

    kind: Literal["accuracy", "ttft", "flops"]
    value: float

    def spell(self) -> str:
        """Say it in a report."""
        return {
            "accuracy": f"at least {self.value:.1%} of the unpruned score",
            "ttft": f"at most {self.value:g} ms to the first token",
            "flops": f"at most {self.value:.1%} of the prefill's operations",
        }[self.kind]


@dataclass(frozen=True, slots=True)
class Measured:
    """One way to prune on some questions.

    Attributes:
        role: Where it comes from: "default" is the budget rule.
        choice: The schedule; None for the unpruned model.
        share: Share of the unpruned prefill's operations.
        score: Mean score with its interval.
        loss: Mean answer loss above the unpruned model's, in nats.
        loss_interval: Its bootstrap interval.
        first_token_ms: Median time to the first token.
    """

    role: Role
    choice: Choice | None
    share: float
    score: Score
    loss: float
    loss_interval: Interval
    first_token_ms: float

    @property
    def label(self) -> str:
        """Its name in reports."""
        return "unpruned" if self.choice is None else self.choice.label

    @property
    def faith(self) -> Score:
        """Relative probability of the unpruned answer, geometric mean; 1 where nothing is lost."""
        spread = self.loss_interval
        low, mean, high = (
            math.exp(-max(0.0, nats)) for nats in (spread.high, self.loss, spread.low)
        )
        return Score(self.score.num, mean, Interval(low, high))


@dataclass(frozen=True, slots=True)
class Retained:
    """Share of the unpruned score that is left, and its paired bootstrap interval."""

    share: float
    interval: Interval


@dataclass(frozen=True, slots=True)
class Comparison:
    """The best schedule that was found against the default, on questions that neither has seen.

    Attributes:
        unpruned: The unpruned model.
        found: The best schedule of the search.
        default: The budget rule at equal operations; None where it has none on this bundle.
        difference: Score of the found one minus that of the default.
        loss_difference: Its answer loss minus that of the default; below zero is better.
        loss_interval: Its paired bootstrap interval.
        retained: What the found one leaves of the unpruned score; None where there is none.
        default_retained: What the default leaves of it.
    """

    unpruned: Measured
    found: Measured
    default: Measured | None
    difference: Difference | None
    loss_difference: float | None
    loss_interval: Interval | None
    retained: Retained | None
    default_retained: Retained | None

    @property
    def verdict(self) -> str:
        """Say in one sentence which is better, or how surely neither is."""
        if self.default is None or self.difference is None or self.loss_interval is None:
            return "the budget rule has no schedule of as few operations on this bundle"
        low, high = 100 * self.difference.interval.low, 100 * self.difference.interval.high
        mean = 100 * self.difference.mean
        points = f"{mean:+.1f} points, 95 % interval {low:+.1f} to {high:+.1f}"
        if low > 0:
            return f"the found schedule answers better than the default at equal FLOPs: {points}"
        if high < 0:
            return f"the default answers better than the found schedule at equal FLOPs: {points}"
        nearer = ""
        if self.loss_interval.high < 0:
            nearer = "; the found schedule gives the unpruned answers more probability"
        if self.loss_interval.low > 0:
            nearer = "; the default gives the unpruned answers more probability"
        return f"the default is as good at equal FLOPs, within the interval: {points}{nearer}"


@dataclass(frozen=True, slots=True)
class Findings:
    """All that a search found.

    Attributes:
        target: What was asked for.
        limit: Share of the operations that the target came to.
        num_visual: Visual tokens of the prompt that operations are counted for.
        num_text: Its other tokens.
        num_search: Questions of the search.
        num_counted: Of these, those whose loss counts: the unpruned model has them right.
        sensitivity: By method, each boundary pruned alone.
        front: Predicted best schedules, cheapest first.
        ladder: Measured on the first questions of the search: the best of each share, and the
            budget rule's.
        race: Who raced at the limit, best first.
        chosen: What the schedule file holds.
        chosen_role: "default" where the budget rule won the race.
        comparison: On the held-out questions.
    """

    target: Target
    limit: float
    num_visual: int
    num_text: int
    num_search: int
    num_counted: int
    sensitivity: dict[str, tuple[Sensitivity, ...]]
    front: tuple[Forecast, ...]
    ladder: tuple[Measured, ...]
    race: tuple[Placing[Forecast], ...]
    chosen: Choice
    chosen_role: Role
    comparison: Comparison

    @property
    def outcome(self) -> str:
        """Say how the chosen schedule meets the target on the held-out questions."""
        told = self.comparison
        is_default = self.chosen_role == "default" and told.default is not None
        chosen = told.default if is_default and told.default else told.found
        if self.target.kind == "flops":
            return f"{chosen.share:.1%} of the prefill's operations"
        if self.target.kind == "ttft":
            told_ms = f"{chosen.first_token_ms:.0f} ms to the first token, median"
            missed = chosen.first_token_ms > self.target.value
            return f"{told_ms}: more than was asked for, ask for less" if missed else told_ms
        left = told.default_retained if is_default else told.retained
        if left is None:
            return "the unpruned model has no held-out question right"
        low, high = left.interval.low, left.interval.high
        return f"{left.share:.1%} of the unpruned score, 95 % interval {low:.1%} to {high:.1%}"
