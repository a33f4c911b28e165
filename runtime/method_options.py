"""What a request may ask of its method beyond how much to prune."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast, get_args

from sparsevlm_ops.heads import DEFAULT_NUM_HEADS, count_heads
from sparsevlm_ops.host_scores import HOST_RULES
from sparsevlm_ops.methods import Method, Positions
from sparsevlm_ops.placement import AUTHORS_RANK_LAYERS, placed_layers
from sparsevlm_ops.rank_rule import AUTHORS_RANK_RULES, RankRule
from sparsevlm_trt.runtime.budget_plan import Budget
from sparsevlm_trt.runtime.errors import InputError, PlanError
from sparsevlm_trt.runtime.guard import ENTROPY, Guard, GuardLike
from sparsevlm_trt.runtime.manifest import PlanSpec

__all__ = ["MethodOptions", "method_options", "rank_rule"]


@dataclass(frozen=True, slots=True)
class MethodOptions:
    """Checked options of a method.

    Attributes:
        positions: How survivors are numbered; None for the method's own way.
        scale: Tokens for each rank; None for the default.
        bias: Tokens beyond these; None for the default.
        num_heads: Heads that score, or their share.
        guard: What stays in any case.
    """

    positions: Positions | None
    scale: float | None
    bias: float | None
    num_heads: int | float
    guard: Guard


def method_options(
    method: Method,
    *,
    positions: str | None,
    scale: float | None,
    bias: float | None,
    num_heads: int | float | None,
    guard: GuardLike | None,
) -> MethodOptions:
    """Check the options of a method.

    Raises:
        InputError: An option that the method does not have, or a value that cannot be used.
    """
    if positions is not None and positions not in get_args(Positions):
        raise InputError(
            f"positions | got {positions!r} | expected one of: {', '.join(get_args(Positions))} | "
            "name one of them, or leave it out"
        )
    if (scale, bias) != (None, None) and method.counts != "rank":
        raise InputError(_no_such(method, "scale, bias", "'sparsevlm-adaptive'"))
    if num_heads is not None and method.scoring != "gravity":
        raise InputError(_no_such(method, "num_heads", "'sparsevlm+'"))
    heads = DEFAULT_NUM_HEADS if num_heads is None else num_heads
    try:
        count_heads(heads, 1)
    except ValueError as error:
        raise InputError(str(error)) from error
    guarded = Guard.of(guard)
    if guarded.rules and method.counts == "rank":
        raise InputError(
            f"guard | got a rule of a budget with method {method.name!r}, which has none | "
            "expected 'entropy' | raise its scale, or name another method"
        )
    if guarded.share and method.judge in HOST_RULES:
        raise InputError(
            f"guard | got {ENTROPY!r} with method {method.name!r}, which scores by no attention | "
            "expected a method that does | leave it out, or give rules PATTERN=BUDGET"
        )
    return MethodOptions(cast("Positions | None", positions), scale, bias, heads, guarded)


def rank_rule(
    plan: PlanSpec, num_layers: int, budget: Budget | None, options: MethodOptions
) -> RankRule:
    """Make the rule by which a bundle prunes by rank.

    Args:
        plan: Of the bundle.
        num_layers: Decoder layers of the model.
        budget: Stands for the authors' scale and bias of that name.
        options: Scale and bias that are given.

    Raises:
        InputError: Scale or bias cannot be used, or stand beside a budget.
        PlanError: The bundle is not cut where the authors prune, or they have no such budget.
    """
    scale, bias = AUTHORS_RANK_RULES[192]
    given = (options.scale, options.bias) != (None, None)
    if budget is not None and given:
        raise InputError(
            f"scale, bias | got them and budget {budget} | expected one of the two | leave the "
            "budget out"
        )
    if budget is not None:
        if budget not in AUTHORS_RANK_RULES:
            known = ", ".join(map(str, AUTHORS_RANK_RULES))
            raise PlanError(
                f"budget | got {budget} for method 'sparsevlm-adaptive' | expected one of: "
                f"{known} | give scale and bias instead: the rank decides what they come to"
            )
        scale, bias = AUTHORS_RANK_RULES[int(budget)]
    scale = scale if options.scale is None else options.scale
    bias = bias if options.bias is None else options.bias
    layers = _rank_layers(plan, num_layers)
    try:
        return RankRule(layers, scale, bias)
    except (TypeError, ValueError) as error:
        told = str(error) if "|" in str(error) else f"scale, bias | {error} | expected numbers"
        raise InputError(told) from error


def _rank_layers(plan: PlanSpec, num_layers: int) -> tuple[int, ...]:
    """Choose the authors' pruning layers, or those of the same depth, as the bundle is cut."""
    authors = tuple(layer for layer in AUTHORS_RANK_LAYERS if layer < num_layers - 1)
    by_depth = placed_layers(AUTHORS_RANK_LAYERS, num_layers)
    for layers in (authors, by_depth):
        if layers and set(layers) <= set(plan.boundaries):
            return layers
    spelled = ",".join(map(str, by_depth))
    missing = [layer for layer in by_depth if layer not in plan.boundaries]
    raise PlanError(
        f"method 'sparsevlm-adaptive' | got a bundle cut after layers "
        f"{', '.join(map(str, plan.boundaries)) or 'none'} | expected {spelled}: it prunes after "
        f"{', '.join(map(str, missing))} too | export with --boundaries {spelled}, or name "
        "another method"
    )


def _no_such(method: Method, names: str, owner: str) -> str:
    return (
        f"{names} | got with method {method.name!r} | expected with method {owner} | "
        "leave it out, or name that method"
    )
