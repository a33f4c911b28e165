"""The points of a sweep: each a method with a budget or schedule, unpruned first."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass

from sparsevlm_ops.methods import METHODS
from sparsevlm_ops.schedule import BUDGETS
from sparsevlm_trt.runtime.errors import InputError, PlanError
from sparsevlm_trt.runtime.manifest import Manifest
from sparsevlm_trt.runtime.pruning_plan import plan_pruning

__all__ = ["UNPRUNED", "Config", "default_configs", "plan_configs", "pruning_methods"]

NONE = "none"
DEFAULT = "default"


@dataclass(frozen=True, slots=True)
class Config:
    """One way to prune.

    Attributes:
        method: The method.
        budget: Nominal average of visual tokens; None for a schedule of one's own.
        asked: That schedule, as it was asked for; None with neither for the bundle's own plan.
        schedule: What the method makes of either, spelled, or the rule by which it goes; None for
            the unpruned model.
    """

    method: str
    budget: int | None
    asked: str | None
    schedule: str | None

    @property
    def plan(self) -> str:
        """What two methods have in common that are compared: the budget or the schedule."""
        if self.budget is not None:
            return str(self.budget)
        return self.asked or (NONE if self.schedule is None else DEFAULT)

    @property
    def label(self) -> str:
        """Its name in all reports, `sparsevlm 192`."""
        return self.method if self.schedule is None else f"{self.method} {self.plan}"


UNPRUNED = Config(NONE, None, None, None)


def plan_configs(
    manifest: Manifest,
    methods: Sequence[str],
    budgets: Sequence[int | None],
    schedules: Sequence[str],
) -> tuple[Config, ...]:
    """List the configurations of a sweep, each once, in a fixed order.

    Args:
        manifest: Describes the bundle.
        methods: Pruning methods.
        budgets: Nominal budgets; None for the unpruned model.
        schedules: Schedules of one's own, in addition.

    Raises:
        PlanError: The bundle cannot follow one of them.
        InputError: None at all.
    """
    listed = [UNPRUNED] if None in budgets or NONE in methods else []
    plans: list[tuple[int | None, str | None]] = [(budget, None) for budget in budgets if budget]
    plans += [(None, schedule) for schedule in schedules]
    for budget, schedule in plans:
        listed += [
            _config(manifest, method, budget, schedule) for method in methods if method != NONE
        ]
    if not listed:
        raise InputError(
            "sweep | got no budget and no schedule | expected one or more | "
            "name some, or leave the options out"
        )
    return tuple(dict.fromkeys(listed))


def default_configs(manifest: Manifest, methods: Sequence[str]) -> tuple[Config, ...]:
    """List the unpruned model and the budgets that each method can follow here.

    A bundle that is cut elsewhere is swept at its own schedule.
    """
    return tuple(dict.fromkeys([UNPRUNED, *_feasible(manifest, methods)]))


def pruning_methods(manifest: Manifest) -> tuple[str, ...]:
    """Name the bundle's methods that prune, its own first."""
    plan = manifest.plan
    names = [name for name in plan.methods if name in METHODS and METHODS[name].prunes]
    return tuple(sorted(names, key=lambda name: name != plan.method))


def _feasible(manifest: Manifest, methods: Sequence[str]) -> Iterator[Config]:
    found = False
    for budget in BUDGETS:
        for method in methods:
            try:
                config = _config(manifest, method, budget, None)
            except PlanError:
                continue
            found = True
            yield config
    if not found:
        for method in methods:
            with suppress(PlanError):  # one that wants cuts which are not there
                yield _config(manifest, method, None, None)


def _config(manifest: Manifest, method: str, budget: int | None, schedule: str | None) -> Config:
    pruning = plan_pruning(manifest, method=method, budget=budget, schedule=schedule)
    if pruning.rank_rule is not None:
        return Config(method, budget, schedule, pruning.rank_rule.spell())
    if pruning.schedule is None:
        raise PlanError(
            f"budget {budget} | method {method} prunes nothing for it here | expected one below "
            "the model's own visual tokens | choose a smaller one"
        )
    return Config(method, budget, schedule, pruning.schedule.spell())
