"""How a request prunes: what it asks for, else the plan of the bundle."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparsevlm_ops.matching import equal_schedule
from sparsevlm_ops.methods import Method, get_method
from sparsevlm_ops.schedule import BUDGET_VISUAL_TOKENS, Schedule
from sparsevlm_trt.runtime.boundary import Pruning
from sparsevlm_trt.runtime.budget_plan import Budget, BudgetPlan
from sparsevlm_trt.runtime.errors import InputError, PlanError
from sparsevlm_trt.runtime.guard import GuardLike
from sparsevlm_trt.runtime.manifest import Manifest, PlanSpec
from sparsevlm_trt.runtime.method_options import method_options, rank_rule

__all__ = ["ScheduleLike", "plan_pruning"]

_NO_SCHEDULE = "schedule | {} | expected layers and counts | write it like 2:300,6:200,15:110"

ScheduleLike = Schedule | str | Mapping[int, int]


def plan_pruning(
    manifest: Manifest,
    *,
    method: str | None = None,
    budget: Budget | None = None,
    schedule: ScheduleLike | None = None,
    replay: Sequence[Any] | None = None,
    method_seed: int = 0,
    num_visual: int | None = None,
    positions: str | None = None,
    scale: float | None = None,
    bias: float | None = None,
    num_heads: int | float | None = None,
    guard: GuardLike | None = None,
) -> Pruning:
    """Decide how to prune: what is asked for, else the bundle's plan.

    A schedule is followed as it stands, and may use some of the bundle's boundaries. A budget is
    resolved for the visual tokens of each prompt (`sparsevlm_ops.budget`); the plan of a bundle
    made for another method means as many tokens as `sparsevlm` would leave.
    A method that never prunes takes neither, so that a budget beside it has no effect.

    Args:
        manifest: Describes the bundle.
        method: The method; the bundle's by default.
        budget: Nominal average of visual tokens.
        schedule: Tokens kept after each pruning layer.
        replay: Visual scores of each boundary.
        method_seed: Of a method that draws, 0 or more.
        num_visual: Visual tokens of the prompt that counts are made equal for; one image's by
            default.
        positions: "compact" or "original"; the method's own way by default.
        scale: Of a method that goes by rank.
        bias: Of a method that goes by rank.
        num_heads: Of a method that chooses heads.
        guard: What stays in any case.

    Raises:
        InputError: The seed, the scores or an option of the method cannot be used.
        PlanError: The method has no graph here, the budget is unknown, both budget and schedule
            are given, or the schedule prunes where the bundle is not cut.
    """
    plan = manifest.plan
    chosen = _method(method or plan.method, plan)
    own = method_options(
        chosen, positions=positions, scale=scale, bias=bias, num_heads=num_heads, guard=guard
    )
    if not chosen.prunes:
        return Pruning(chosen, None)
    if budget is not None and schedule is not None:
        raise PlanError(
            f"plan | got budget {budget} and a schedule | expected one of the two | "
            "leave the budget out to use the schedule"
        )
    if not isinstance(method_seed, int) or method_seed < 0:
        raise InputError(
            f"method_seed | got {method_seed!r} | expected a whole number, 0 or more | change it"
        )
    scores = None if replay is None else _scores(replay)
    if chosen.counts == "rank" and schedule is None:
        rule = rank_rule(plan, manifest.model.num_layers, budget, own)
        return Pruning(
            chosen, None, scores, method_seed, rule, own.num_heads, own.positions, own.guard
        )
    if num_visual is None:
        num_visual = manifest.vision.num_visual if manifest.vision else BUDGET_VISUAL_TOKENS
    by_budget = None
    nominal = plan.budget if budget is None else budget
    if schedule is None and nominal is not None:
        layers = manifest.model.num_layers
        by_budget = BudgetPlan(nominal, chosen.name, layers, plan.boundaries)
    try:
        if by_budget is not None and (budget is not None or chosen.name != plan.method):
            kept = by_budget.schedule(num_visual)
        else:
            kept = _schedule(chosen, schedule, manifest, num_visual)
    except ValueError as error:  # the arithmetic's own sentence is complete
        raise PlanError(f"{error}" if "|" in str(error) else _NO_SCHEDULE.format(error)) from error
    if kept is None and by_budget is None:
        return Pruning(chosen, None)
    given = Pruning(
        chosen,
        kept,
        scores,
        method_seed,
        None,
        own.num_heads,
        own.positions,
        own.guard,
        by_budget,
        num_visual,
    )
    if kept is None:
        return given
    elsewhere = [layer for layer in kept.layers if layer not in plan.boundaries]
    if elsewhere:
        raise PlanError(
            f"schedule {kept.spell()} | got pruning layers {elsewhere} | expected of this "
            f"bundle's boundaries: {', '.join(map(str, plan.boundaries)) or 'none'} | "
            "use those, or export with the boundaries you need"
        )
    return given


def _method(name: str, plan: PlanSpec) -> Method:
    """Look up a method that the bundle has a graph for."""
    if name not in plan.methods:
        raise PlanError(
            f"method | got {name!r} | expected one of this bundle's: {', '.join(plan.methods)} | "
            "name one of them, or export with that method"
        )
    try:
        return get_method(name)
    except ValueError as error:
        raise PlanError(str(error)) from error


def _schedule(
    method: Method, schedule: ScheduleLike | None, manifest: Manifest, num_visual: int
) -> Schedule | None:
    """Make the schedule of a request; None prunes nothing, ValueError where it cannot be one."""
    if schedule is not None:
        return Schedule.read(schedule)
    plan = manifest.plan
    table = Schedule.of(plan.schedule, plan.source)
    if method.name == plan.method:
        return table
    return equal_schedule(table, method, num_visual, manifest.model.num_layers)


def _scores(replay: Sequence[Any]) -> tuple[NDArray[np.float32], ...]:
    """Read scores to replay."""
    try:
        return tuple(np.asarray(scores, np.float32) for scores in replay)
    except (TypeError, ValueError) as error:
        raise InputError(
            f"replay | {error} | expected arrays of numbers, one for each boundary that prunes | "
            "take them from a trace"
        ) from error
