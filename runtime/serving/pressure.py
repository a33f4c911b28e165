"""The pressure valve: a lower default budget while the first token would come too late."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from sparsevlm_ops.methods import get_method
from sparsevlm_ops.schedule import (
    BUDGET_VISUAL_TOKENS,
    BUDGETS,
    Schedule,
    average_visual_tokens,
)
from sparsevlm_trt.runtime.errors import PlanError
from sparsevlm_trt.runtime.manifest import Manifest
from sparsevlm_trt.runtime.pruning_plan import plan_pruning
from sparsevlm_trt.runtime.request import Options

__all__ = ["PressureValve", "Rung", "pressure_ladder"]

_LOWER_ABOVE = 0.8  # share of the target: act before it is missed
_RAISE_BELOW = 0.3  # share of the target: well below, or it would swing
_LOWER_EVERY_S = 0.5  # an admission or two shows what the last step did
_RAISE_EVERY_S = 3.0


@dataclass(frozen=True, slots=True)
class Rung:
    """A way to prune that requests get which name none.

    Attributes:
        budget: Nominal budget; None: the bundle's own schedule, or no pruning.
        method: "none" prunes nothing; None: the bundle's method.
        shown: Visual tokens that stand for it in the metrics.
    """

    budget: int | None
    method: str | None
    shown: int

    @property
    def options(self) -> Options:
        """As the options of a request."""
        return Options(budget=self.budget, method=self.method)


def pressure_ladder(manifest: Manifest, floor: int, *, whole: bool = False) -> tuple[Rung, ...]:
    """List the ways to prune that a bundle's own method follows, most visual tokens first.

    Args:
        manifest: Describes the bundle.
        floor: Lowest budget to list.
        whole: Begin with all visual tokens, above the bundle's own plan.
    """
    plan = manifest.plan
    num_visual = manifest.vision.num_visual if manifest.vision else 0
    own = plan.budget or _own_average(manifest, num_visual)
    ladder = [Rung(plan.budget, None, own)]
    if whole and "none" in plan.methods and plan.method != "none":
        ladder.insert(0, Rung(None, "none", num_visual))
    # The authors' budgets, as shares of the image that they were made for.
    shares = [budget / BUDGET_VISUAL_TOKENS for budget in sorted(BUDGETS, reverse=True)]
    for budget in dict.fromkeys(round(share * num_visual) for share in shares):
        if not max(floor, 1) <= budget < own:
            continue
        try:
            pruning = plan_pruning(manifest, budget=budget)
        except PlanError:  # these cuts do not reach so far down
            continue
        if pruning.schedule is not None:
            ladder.append(Rung(budget, None, budget))
    return tuple(ladder)


def _own_average(manifest: Manifest, num_visual: int) -> int:
    """Average of visual tokens that a bundle's own schedule leaves of one image."""
    plan = manifest.plan
    if not plan.schedule or num_visual < 1:
        return num_visual
    recycles = get_method(plan.method).recycles
    layers = manifest.model.num_layers
    schedule = Schedule.of(plan.schedule)
    return round(average_visual_tokens(schedule, num_visual, layers, recycles))


@dataclass(slots=True)
class PressureValve:
    """Chooses the budget of requests that name none.

    Attributes:
        ladder: What to choose from, each with fewer visual tokens than the last.
        target_s: Time to the first token to hold, seconds; None: always the first of the ladder.
    """

    ladder: tuple[Rung, ...]
    target_s: float | None
    _level: int = field(default=0, init=False)
    _changed_at: float = field(default=float("-inf"), init=False)
    _seen_at: float = field(default=float("inf"), init=False)

    @property
    def rung(self) -> Rung:
        """What is in force."""
        return self.ladder[self._level]

    @property
    def is_lowered(self) -> bool:
        """Whether that is not the first of the ladder."""
        return self._level > 0

    def adjust(self, predicted_s: float, now: float | None = None) -> Rung:
        """Move, and return what is in force: down by a step at most.

        Up by one, and by one more for each while in which nobody asked.

        Args:
            predicted_s: Time to the first token of a request that arrives now, seconds.
            now: `time.monotonic()` value; the present by default.
        """
        if self.target_s is None:
            return self.rung
        now = time.monotonic() if now is None else now
        since, idle = now - self._changed_at, max(0.0, now - self._seen_at)
        self._seen_at = now
        step = 0
        if predicted_s > _LOWER_ABOVE * self.target_s and since >= _LOWER_EVERY_S:
            step = 1
        elif predicted_s < _RAISE_BELOW * self.target_s and since >= _RAISE_EVERY_S:
            step = -1 - int(idle // _RAISE_EVERY_S)
        level = min(max(self._level + step, 0), len(self.ladder) - 1)
        if level != self._level:
            self._level, self._changed_at = level, now
        return self.rung
