"""The pressure valve: a lower default budget while the first token would come too late."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from sparsevlm_ops.schedule import BUDGETS
from sparsevlm_trt.runtime.errors import PlanError
from sparsevlm_trt.runtime.manifest import Manifest
from sparsevlm_trt.runtime.request import plan_pruning

__all__ = ["PressureValve", "budget_ladder"]

_LOWER_ABOVE = 0.8  # share of the target: act before it is missed
_RAISE_BELOW = 0.3  # share of the target: well below, or it would swing
_LOWER_EVERY_S = 0.5  # an admission or two shows what the last step did
_RAISE_EVERY_S = 3.0


def budget_ladder(manifest: Manifest, floor: int) -> tuple[int | None, ...]:
    """List the budgets that a bundle's own method follows, from its plan (None) downwards.

    Args:
        manifest: Describes the bundle.
        floor: Lowest budget to list.
    """
    ladder: list[int | None] = [None]
    top = manifest.plan.budget
    for budget in sorted(BUDGETS, reverse=True):
        if budget < floor or (top is not None and budget >= top):
            continue
        try:
            pruning = plan_pruning(manifest, budget=budget)
        except PlanError:
            continue
        if pruning.schedule is not None:
            ladder.append(budget)
    return tuple(ladder)


@dataclass(slots=True)
class PressureValve:
    """Chooses the budget of requests that name none.

    Attributes:
        ladder: Budgets to choose from, None for the bundle's plan, each lower than the last.
        target_s: Time to the first token to hold, seconds; None: always the first of the ladder.
    """

    ladder: tuple[int | None, ...]
    target_s: float | None
    _level: int = field(default=0, init=False)
    _changed_at: float = field(default=float("-inf"), init=False)

    @property
    def budget(self) -> int | None:
        """The budget in force; None: the bundle's plan."""
        return self.ladder[self._level]

    @property
    def is_lowered(self) -> bool:
        """Whether the budget is not the first of the ladder."""
        return self._level > 0

    def adjust(self, predicted_s: float, now: float | None = None) -> int | None:
        """Move by a step at most, and return the budget in force.

        Args:
            predicted_s: Time to the first token of a request that arrives now, seconds.
            now: `time.monotonic()` value; the present by default.
        """
        if self.target_s is None:
            return self.budget
        now = time.monotonic() if now is None else now
        since = now - self._changed_at
        step = 0
        if predicted_s > _LOWER_ABOVE * self.target_s and since >= _LOWER_EVERY_S:
            step = 1
        elif predicted_s < _RAISE_BELOW * self.target_s and since >= _RAISE_EVERY_S:
            step = -1
        level = min(max(self._level + step, 0), len(self.ladder) - 1)
        if level != self._level:
            self._level, self._changed_at = level, now
        return self.budget
