"""How a budget is shared out among the boundaries: as the authors' tables do, at any budget.

Their tables give, for four budgets, the share of the visual tokens that is kept after each of
three boundaries. Between two budgets the logarithms of the shares are interpolated, outside them
the nearest table holds; the shares are then scaled together to make a budget's average.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from sparsevlm_ops.schedule import BUDGET_VISUAL_TOKENS

__all__ = ["authors_profile"]


def authors_profile(
    share: float, tables: Mapping[int, Mapping[int, int]]
) -> tuple[float, float, float]:
    """Read the tables at a budget that they do not name.

    Args:
        share: The budget's share of the visual tokens, above 0 and below 1.
        tables: `{budget: {layer: tokens kept}}` for 576 visual tokens, three layers each.

    Returns:
        Share of the visual tokens that stays after the first, second and third boundary, above 0.

    Source: the authors' code, v1.5 and v2.0, its tables of retained tokens.
    """
    budgets = sorted(tables)
    at = [budget / BUDGET_VISUAL_TOKENS for budget in budgets]
    place = min(max(share, at[0]), at[-1])
    upper = next(i for i, known in enumerate(at) if place <= known)
    lower = max(0, upper - 1)
    weight = 0.0
    if upper != lower:
        weight = math.log(place / at[lower]) / math.log(at[upper] / at[lower])
    first, second, third = (
        math.exp((1 - weight) * math.log(low) + weight * math.log(high)) / BUDGET_VISUAL_TOKENS
        for low, high in zip(
            tables[budgets[lower]].values(), tables[budgets[upper]].values(), strict=True
        )
    )
    return first, second, third
