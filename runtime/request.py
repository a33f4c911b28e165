"""What a caller may ask for, checked against what a bundle can do."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypedDict

import numpy as np
from numpy.typing import NDArray

from sparsevlm_ops.matching import equal_schedule
from sparsevlm_ops.methods import Method, Positions, get_method
from sparsevlm_ops.schedule import BUDGET_VISUAL_TOKENS, Schedule
from sparsevlm_trt.runtime.boundary import Pruning
from sparsevlm_trt.runtime.budget_plan import Budget, BudgetPlan
from sparsevlm_trt.runtime.errors import InputError, PlanError
from sparsevlm_trt.runtime.guard import GuardLike
from sparsevlm_trt.runtime.manifest import Manifest, PlanSpec
from sparsevlm_trt.runtime.method_options import method_options, rank_rule
from sparsevlm_trt.runtime.sampling import Sampler
from sparsevlm_trt.runtime.stops import StopMatcher

__all__ = ["Options", "Request", "ScheduleLike", "make_request", "plan_pruning"]

_NO_SCHEDULE = "schedule | {} | expected layers and counts | write it like 2:300,6:200,15:110"

ScheduleLike = Schedule | str | Mapping[int, int]


class Options(TypedDict, total=False):
    """The options of `Session.generate` and its siblings.

    Attributes:
        method: Pruning method; the bundle's by default.
        method_seed: Of a method that draws its tokens, 0 by default.
        positions: "compact": survivors are renumbered without gaps; "original": they keep their
            position ids. The method's own way by default.
        scale: Of method `sparsevlm-adaptive`: tokens kept for each rank, 13.5 by default.
        bias: Of the same: tokens kept beyond these, 0 by default.
        num_heads: Of method `sparsevlm+`: heads that score, 14 by default, or their share if it
            is a fraction.
        guard: What stays in any case: "entropy", "entropy:0.5", "PATTERN=BUDGET", several of
            them, or `{pattern: budget}`; see `sparsevlm_trt.runtime.guard`.
        budget: Nominal average of visual tokens in a layer, such as 192, or a fraction of the
            prompt's, such as 0.33.
        schedule: Tokens kept after each pruning layer, e.g. "2:300,6:200,15:110"; in place of
            a budget.
        max_new_tokens: Tokens to make at most, 64 by default.
        temperature: 0 (the default) takes the likeliest token.
        top_k: Draw among that many likeliest tokens; 0: all.
        top_p: Draw among the likeliest tokens that have this probability together.
        seed: Makes draws repeatable.
        stop: Texts that end the answer; they are not part of it.
        stop_tokens: Tokens that end the answer; the model's own by default, () for none.
        stream: Called with each piece of text and its token, as they come.
        keep_logits: Whether the result holds the logits of every decode step.
        replay: Visual scores of each boundary, `[V]`, in place of the raters' attention.
    """

    method: str | None
    method_seed: int
    positions: Positions | None
    scale: float | None
    bias: float | None
    num_heads: int | float | None
    guard: GuardLike | None
    budget: Budget | None
    schedule: ScheduleLike | None
    max_new_tokens: int
    temperature: float
    top_k: int
    top_p: float
    seed: int | None
    stop: str | Sequence[str]
    stop_tokens: Iterable[int] | None
    stream: Callable[[str, int], None] | None
    keep_logits: bool
    replay: Sequence[Any] | None


@dataclass(frozen=True, slots=True)
class Request:
    """Checked options; see `Options`."""

    pruning: Pruning
    max_new_tokens: int = 64
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    seed: int | None = None
    stop: tuple[str, ...] = ()
    stop_tokens: frozenset[int] | None = None
    stream: Callable[[str, int], None] | None = None
    keep_logits: bool = True

    def sampler(self) -> Sampler:
        """Make the sampler of one sequence, at the start of its random stream."""
        return Sampler(self.temperature, self.top_k, self.top_p, self.seed)

    def check_rows(self, rows: int) -> None:
        """Refuse to stream several answers through one function: it could not tell them apart.

        Raises:
            InputError: The request streams, and there are several rows.
        """
        if self.stream is not None and rows != 1:
            raise InputError(
                f"stream | got a batch of {rows} | expected one prompt | leave stream out, or "
                "call generate for each"
            )


def make_request(manifest: Manifest, options: Options) -> Request:
    """Check a caller's options.

    Raises:
        InputError: An option is unknown, or its value cannot be used.
        PlanError: The bundle cannot follow the method, budget or schedule.
    """
    given: dict[str, Any] = dict(options)
    unknown = sorted(set(given) - set(Options.__annotations__))
    if unknown:
        raise InputError(
            f"options | got {', '.join(unknown)} | expected of: "
            f"{', '.join(Options.__annotations__)} | leave the unknown out"
        )
    pruning = plan_pruning(
        manifest,
        method=given.pop("method", None),
        budget=given.pop("budget", None),
        schedule=given.pop("schedule", None),
        replay=given.pop("replay", None),
        method_seed=given.pop("method_seed", 0),
        positions=given.pop("positions", None),
        scale=given.pop("scale", None),
        bias=given.pop("bias", None),
        num_heads=given.pop("num_heads", None),
        guard=given.pop("guard", None),
    )
    request = Request(
        pruning,
        stop=StopMatcher.of(given.pop("stop", ())).stops,
        stop_tokens=_stop_tokens(given.pop("stop_tokens", None)),
        **given,
    )
    request.sampler()  # checks the four options of sampling
    if not isinstance(request.max_new_tokens, int) or request.max_new_tokens < 1:
        raise InputError(
            f"max_new_tokens | got {request.max_new_tokens!r} | expected a whole number, 1 or "
            "more | change it"
        )
    if request.stream is not None and not callable(request.stream):
        raise InputError(
            f"stream | got {request.stream!r} | expected a function of a text and a token | "
            "leave it out, or use Session.stream"
        )
    return request


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
    if isinstance(schedule, Schedule):
        return schedule
    if isinstance(schedule, str):
        return Schedule.parse(schedule)
    if schedule is not None:
        return Schedule.of(schedule)
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


def _stop_tokens(tokens: Iterable[int] | None) -> frozenset[int] | None:
    """Read token numbers; None: the model's own."""
    try:
        return None if tokens is None else frozenset(operator.index(token) for token in tokens)
    except TypeError as error:
        raise InputError(
            f"stop_tokens | {error} | expected token numbers | use stop= for texts"
        ) from error
