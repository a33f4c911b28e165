"""How much the answer suffers where tokens go: measured at single boundaries, added up for many.

At each boundary alone, and with few kept shares, the answer loss is measured (`measures`). The
predicted loss of a schedule goes along its boundaries: what is dropped between keeping `a` and
keeping `b` tokens costs what that step costs at this boundary, `loss(b) - loss(a)`. So nothing is
counted twice, and a token that goes late costs what it costs late.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sparsevlm_trt.calibration.budget.space import Group, Space

__all__ = ["Sensitivity", "SensitivityTable", "never_rising"]

Floats = NDArray[np.float64]

# Shares of the visual tokens that are kept at one boundary to see what that costs.
KEPT_SHARES = (0.5, 0.2, 0.08, 0.03)


@dataclass(frozen=True, slots=True)
class Sensitivity:
    """One boundary, pruned alone.

    Attributes:
        layer: The pruning layer.
        kept: Tokens kept there.
        loss: Answer loss above the unpruned model's, mean of the questions.
    """

    layer: int
    kept: int
    loss: float


class SensitivityTable:
    """Predicted loss of any schedule.

    Attributes:
        loss: Of pruning one boundary to one level, `[Q, L]`.
    """

    def __init__(self, space: Space, measures: Sequence[Sensitivity]) -> None:
        """Fit a curve to what was measured at each boundary: rising as fewer are kept, from zero.

        Args:
            space: The schedules; its Q boundaries and L levels.
            measures: One or more of each boundary.
        """
        at = np.log(np.array(space.kept, np.float64))
        rows = []
        for layer in space.layers:
            mine = sorted((one.kept, one.loss) for one in measures if one.layer == layer)
            counts = np.log([*(count for count, _ in mine), space.num_visual])
            # Chance must not make a schedule look better for dropping more.
            losses = np.maximum(never_rising([loss for _, loss in mine]), 0.0)
            rows.append(np.interp(at, counts, [*losses, 0.0]))
        self.loss = np.array(rows)

    def predict(self, group: Group) -> Floats:
        """Predict the loss of all schedules of a group, `[C]`."""
        total = np.zeros(len(group.levels))
        for step, boundary in enumerate(group.boundaries):
            row = self.loss[boundary]
            total += row[group.levels[:, step]]
            if step:
                total -= row[group.levels[:, step - 1]]
        return total


def never_rising(values: Sequence[float]) -> Floats:
    """Fit the nearest sequence that never rises, by least squares (pool adjacent violators)."""
    pools: list[tuple[float, int]] = []
    for value in values:
        pools.append((float(value), 1))
        while len(pools) > 1 and pools[-2][0] < pools[-1][0]:
            (first, n), (second, m) = pools[-2:]
            pools[-2:] = [((first * n + second * m) / (n + m), n + m)]
    return np.concatenate([np.full(count, mean) for mean, count in pools] or [np.empty(0)])
