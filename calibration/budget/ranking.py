"""All schedules by what they are predicted to cost the answer, under a limit of operations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sparsevlm_trt.calibration.budget.choice import Choice
from sparsevlm_trt.calibration.budget.sensitivity import SensitivityTable
from sparsevlm_trt.calibration.budget.space import Space

__all__ = ["Forecast", "Ranking"]


@dataclass(frozen=True, slots=True)
class Forecast:
    """A schedule that was not measured yet.

    Attributes:
        choice: The schedule and its method.
        share: Share of the unpruned prefill's operations that it takes.
        loss: Predicted answer loss above the unpruned model's, in nats; None where
            there is none: the default, and what was found by trying.
    """

    choice: Choice
    share: float
    loss: float | None


class Ranking:
    """The exact best of everything that the spaces hold, by the prediction.

    Attributes:
        least: The smallest share that any schedule takes.
    """

    def __init__(self, spaces: Sequence[Space], tables: Sequence[SensitivityTable]) -> None:
        """Predict the loss of every schedule of each method."""
        self._rows = [
            (space, group, table.predict(group))
            for space, table in zip(spaces, tables, strict=True)
            for group in space.groups()
        ]
        self.least = min(float(group.share.min()) for _, group, _ in self._rows)

    def best(self, limit: float, num: int) -> list[Forecast]:
        """Take the best schedules that keep a limit, of each method and set of layers the best.

        Counts are then scaled up to what the limit allows.

        Args:
            limit: Share of the operations that a schedule may take.
            num: So many at most.

        Returns:
            The smallest predicted loss first; empty where nothing keeps the limit.
        """
        found = []
        for space, group, losses in self._rows:
            allowed = np.flatnonzero(group.share <= limit)
            if not len(allowed):
                continue
            least = allowed[losses[allowed] == losses[allowed].min()]
            first = least[np.argmax(group.share[least])]  # of equals the one that keeps most
            found.append((float(losses[first]), space, space.schedule(group, int(first))))
        found.sort(key=lambda one: one[0])
        made = []
        for loss, space, schedule in found[:num]:
            filled = space.filled(schedule, limit) or schedule
            choice = Choice(space.method.name, filled)
            made.append(Forecast(choice, space.share(filled), loss))
        return made
