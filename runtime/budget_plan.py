"""A budget that waits for its prompt: the schedule depends on how many visual tokens there are."""

from __future__ import annotations

from dataclasses import dataclass

from sparsevlm_ops.budget import Budget, budget_schedule
from sparsevlm_ops.schedule import Schedule
from sparsevlm_trt.runtime.errors import PlanError

__all__ = ["Budget", "BudgetPlan"]


@dataclass(frozen=True, slots=True)
class BudgetPlan:
    """A budget on a bundle.

    Attributes:
        budget: Average of visual tokens, in tokens or as a fraction of them.
        method: The method's name.
        num_layers: Decoder layers of the model.
        cuts: Layers after which the bundle can prune.
    """

    budget: Budget
    method: str
    num_layers: int
    cuts: tuple[int, ...]

    def schedule(self, num_visual: int) -> Schedule | None:
        """Make the schedule for a prompt; None where it has no more tokens than the budget.

        Raises:
            PlanError: No budget, or one that these cuts cannot reach.
        """
        if num_visual < 1:
            return None
        try:
            return budget_schedule(
                self.budget, self.method, num_visual, self.num_layers, self.cuts
            )
        except ValueError as error:
            raise PlanError(str(error)) from error
