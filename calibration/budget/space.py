"""The schedules that a bundle can follow, and what each costs: enumerated, none left out.

Letters: Q boundaries of the bundle, L levels (tokens kept), C schedules, k pruning layers.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparsevlm_ops.methods import Method
from sparsevlm_ops.schedule import Schedule, num_candidates, num_merged
from sparsevlm_trt.runtime.budget_plan import BudgetPlan
from sparsevlm_trt.runtime.errors import PlanError
from sparsevlm_trt.runtime.flops import FLOPS_PER_MULTIPLY_ADD, chain_cost, layer_multiply_adds
from sparsevlm_trt.runtime.manifest import Manifest

__all__ = ["Group", "Space"]

Floats = NDArray[np.float64]
Index = NDArray[np.int64]

NUM_LEVELS = 24
MOST_KEPT = 0.9  # of the visual tokens: a step that drops less is as good as none
FEWEST_KEPT = 0.03  # of the visual tokens: where sensitivity is measured last
# Pruning layers of a schedule: 4, 200 000 schedules at 6 boundaries; beyond these the paper's 3.
MOST_LAYERS, MOST_LAYERS_OF_MANY, MANY_BOUNDARIES = 4, 3, 6
MOST_SCALED = 4.0  # times that counts are scaled up or down to fill a limit
STEP = 1.6  # between a schedule and its neighbours: more would skip over what lies between
_BISECTIONS = 20


@dataclass(frozen=True, slots=True)
class Group:
    """All schedules that prune after the same layers.

    Attributes:
        boundaries: Which of the bundle's boundaries, ascending, from 0; k of them.
        levels: The level at each, `[C, k]`, rising: a later layer keeps fewer.
        share: Share of the unpruned prefill's operations, `[C]`.
    """

    boundaries: tuple[int, ...]
    levels: Index
    share: Floats


class Space:
    """Every schedule of a method on a bundle, for one shape of a prompt.

    Attributes:
        manifest: Of the bundle.
        method: The method; it keeps tokens and may merge others.
        num_visual: Visual tokens of the prompt.
        num_text: Its other tokens.
        layers: Layers after which the bundle can prune, `[Q]`.
        kept: Tokens kept at each level, `[L]`, falling; evenly spaced in their logarithm.
    """

    def __init__(self, manifest: Manifest, method: Method, num_visual: int, num_text: int) -> None:
        """Take the bundle and a prompt of 2 visual tokens or more."""
        self.manifest, self.method = manifest, method
        self.num_visual, self.num_text = num_visual, num_text
        self.layers = tuple(stage.stop - 1 for stage in manifest.stages[:-1])
        least = max(1, round(FEWEST_KEPT * num_visual))
        most = max(least, min(num_visual - 1, round(MOST_KEPT * num_visual)))
        spaced = np.geomspace(most, least, NUM_LEVELS).round().astype(int)
        self.kept = tuple(sorted({int(count) for count in spaced}, reverse=True))

    def share(self, schedule: Schedule) -> float:
        """Share of the unpruned prefill's operations that a schedule takes."""
        cost = chain_cost(
            self.manifest.model,
            None,
            self.manifest.stages,
            schedule,
            num_visual=self.num_visual,
            num_text=self.num_text,
            recycles=self.method.recycles,
        )
        return cost.prefill_flops / cost.unpruned_prefill_flops

    def schedule(self, group: Group, number: int) -> Schedule:
        """Spell out one schedule of a group."""
        layers = (self.layers[boundary] for boundary in group.boundaries)
        counts = (self.kept[level] for level in group.levels[number])
        return Schedule.of(dict(zip(layers, counts, strict=True)))

    def groups(self) -> Iterator[Group]:
        """Enumerate all schedules, by the layers that they prune after."""
        num = len(self.layers)
        most = MOST_LAYERS if num <= MANY_BOUNDARIES else MOST_LAYERS_OF_MANY
        per_stage = self._stage_flops()
        unpruned = float(per_stage[:, -1].sum())
        for size in range(1, min(most, num, len(self.kept)) + 1):
            chosen = np.array(list(itertools.combinations(range(len(self.kept)), size)))
            for boundaries in itertools.combinations(range(num), size):
                flops = self._flops(boundaries, chosen, per_stage)
                yield Group(boundaries, chosen, flops / unpruned)

    def filled(self, schedule: Schedule, limit: float) -> Schedule | None:
        """Scale a schedule's counts, all alike, to what a share of the operations allows.

        None where a quarter of the counts is too much still.
        """
        best, low, high = None, 1 / MOST_SCALED, MOST_SCALED
        for scale in (low, 1.0):
            if self.share(self._scaled(schedule, scale)) <= limit:
                best, low = self._scaled(schedule, scale), scale
        for _ in range(_BISECTIONS):
            middle = (low + high) / 2
            scaled = self._scaled(schedule, middle)
            if self.share(scaled) <= limit:
                best, low = scaled, middle
            else:
                high = middle
        return best

    def neighbours(self, schedule: Schedule, limit: float) -> list[Schedule]:
        """Keep fewer or more after one layer of a schedule, and rescale to the same operations."""
        found = []
        for layer, count in schedule.kept:
            for factor in (1 / STEP, STEP):
                moved = {**schedule.as_dict(), layer: max(1, round(count * factor))}
                scaled = self.filled(Schedule.of(moved), limit)
                if scaled is not None and scaled != schedule:
                    found.append(scaled)
        return list(dict.fromkeys(found))

    def default(self, share: float) -> Schedule | None:
        """The budget rule's schedule of nearly this share; None where it has none on this bundle.

        The budget is bisected: whole tokens on average, as `--budget` takes them.
        """
        low, high = 0, self.num_visual - 1
        while high - low > 1:
            middle = (low + high) // 2
            made = self._by_budget(middle)
            cheap = made is None or self.share(made) <= share  # none: too small for these cuts
            low, high = (middle, high) if cheap else (low, middle)
        near = [one for one in (self._by_budget(low), self._by_budget(high)) if one is not None]
        return min(near, key=lambda one: abs(self.share(one) - share), default=None)

    def _scaled(self, schedule: Schedule, scale: float) -> Schedule:
        """Scale the counts, each below the one before it; a layer that none is left for goes."""
        most, kept = self.num_visual - 1, {}
        for layer, count in schedule.kept:
            if most < 1:
                break
            kept[layer] = most = min(most, max(1, round(count * scale)))
            most -= 1
        return Schedule.of(kept)

    def _by_budget(self, budget: int) -> Schedule | None:
        plan = BudgetPlan(budget, self.method.name, self.manifest.model.num_layers, self.layers)
        try:
            return plan.schedule(self.num_visual)
        except PlanError:
            return None

    def _stage_flops(self) -> Floats:
        """Operations of each stage with so many visual tokens, `[Q + 1, V + 1]`."""
        model, rows = self.manifest.model, []
        for stage in self.manifest.stages:
            tokens = (self.num_text + n for n in range(self.num_visual + 1))
            one = [FLOPS_PER_MULTIPLY_ADD * layer_multiply_adds(model, n, n) for n in tokens]
            rows.append([stage.num_layers * flops for flops in one])
        return np.array(rows, np.float64)

    def _flops(self, boundaries: tuple[int, ...], chosen: Index, per_stage: Floats) -> Floats:
        """Operations of the schedules `[C, k]` that prune at some boundaries, `[C]`."""
        kept = np.array(self.kept)[chosen]
        now = np.full(len(chosen), self.num_visual)
        starts = (0, *(boundary + 1 for boundary in boundaries), len(self.layers) + 1)
        flops = np.zeros(len(chosen))
        for step, (start, stop) in enumerate(itertools.pairwise(starts)):
            flops += per_stage[start:stop, now].sum(axis=0)
            if step < len(boundaries):
                keep = np.minimum(kept[:, step], now - 1)
                now = keep + _num_back(now - keep) if self.method.recycles else keep
        return flops


def _num_back(dropped: Any) -> Any:
    """Merged tokens that come back of so many dropped ones, `[C]`: the rule holds for arrays."""
    return num_merged(num_candidates(dropped))
