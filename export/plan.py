"""Where the model is cut: the pruning plan of a model, and the stages it makes.

A stage is a run of decoder layers `[first, stop)` that all see the same number of visual
tokens. Pruning acts on the output of a pruning layer, so pruning after layers 2, 6 and 15
of a 32-layer model makes four stages, each with a shorter KV cache than the one before:

    layers   0 1 2 | 3 4 5 6 | 7 ... 15 | 16 ... 31
    visual    576  |   309   |   204    |    113        (budget 192: kept + merged)
              prune^    prune^     prune^

Source: SparseVLM 4.1 (pruning layers 2, 6, 15); the cut itself is ours, see docs/design.md.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import pairwise

from sparsevlm_ops.budget import Budget, budget_layers, budget_schedule, budget_tokens
from sparsevlm_ops.methods import Method, get_method
from sparsevlm_ops.placement import AUTHORS_RANK_LAYERS, placed_layers
from sparsevlm_ops.schedule import BUDGET_VISUAL_TOKENS, Schedule
from sparsevlm_trt.runtime.errors import PlanError
from sparsevlm_trt.runtime.graph_spec import StageSpec

__all__ = ["PruningPlan", "plan_stages"]

# A bundle's default plan: of a share where the model has no more tokens than the number.
DEFAULT_BUDGET, DEFAULT_SHARE = 192, 1 / 3


@dataclass(frozen=True, slots=True)
class PruningPlan:
    """Which method prunes, after which layers, and how much by default.

    Attributes:
        method: Default method of the bundle.
        boundaries: Pruning layers, ascending: the places where the model is cut.
        schedule: Tokens kept after each of them by default; None for method `none`.
        budget: Nominal average of visual tokens the schedule stands for, if any.
        source: Where the numbers come from, for the reader of the manifest.
    """

    method: str
    boundaries: tuple[int, ...]
    schedule: Schedule | None
    budget: int | None
    source: str

    @classmethod
    def make(
        cls,
        num_layers: int,
        *,
        method: str = "sparsevlm",
        budget: Budget | None = None,
        schedule: Mapping[int, int] | str | Schedule | None = None,
        boundaries: Iterable[int] | None = None,
        num_visual: int = BUDGET_VISUAL_TOKENS,
        num_deepstack: int = 0,
    ) -> PruningPlan:
        """Resolve what the user asked for against a model's depth.

        Args:
            num_layers: Decoder layers of the model.
            method: A registered method, or `none`.
            budget: Nominal average of visual tokens, or a fraction of them; ignored when a
                schedule is given. Without either: 192, or a third of the tokens where there are
                not more than that.
            schedule: Tokens kept by layer, as a mapping or as `2:300,6:200`.
            boundaries: Places to cut. Without: those of the schedule and, with a budget, those
                of every other method at the same depth, so that a request may name any of them.
            num_visual: Visual tokens of one image.
            num_deepstack: First layers that the vision tower feeds too: pruning comes after them.

        Raises:
            PlanError: Unknown method, budget, or layers this model does not have or feeds.
        """
        try:
            chosen = get_method(method)
            if budget is None:
                budget = DEFAULT_BUDGET if num_visual > DEFAULT_BUDGET else DEFAULT_SHARE
            cuts = tuple(sorted(set(boundaries))) if boundaries is not None else None
            resolved = _schedule(chosen, schedule, budget, num_layers, num_visual, cuts)
        except ValueError as error:
            raise PlanError(str(error)) from error
        if chosen.prunes and resolved is None:
            raise PlanError(
                f"plan | budget {budget} leaves all {num_visual} visual tokens by method {method} "
                "| expected fewer | choose a smaller budget, or spell a schedule"
            )
        layers = resolved.layers if resolved else ()
        if cuts is None:
            cuts = layers
            if schedule is None and resolved is not None:
                cuts = tuple(sorted({*layers, *_other_cuts(budget, num_layers, num_visual)}))
        bad = [layer for layer in {*cuts, *layers} if not 0 <= layer < num_layers - 1]
        if bad:
            raise PlanError(
                f"plan | pruning after layer {', '.join(map(str, sorted(bad)))} "
                f"| expected layers 0 to {num_layers - 2} of this {num_layers}-layer model "
                "| give --schedule LAYER:KEPT,..."
            )
        fed = sorted(layer for layer in {*cuts, *layers} if layer < num_deepstack - 1)
        if fed:
            raise PlanError(
                f"plan | pruning after layer {', '.join(map(str, fed))} | expected layer "
                f"{num_deepstack - 1} or later ones, as the vision tower feeds the first "
                f"{num_deepstack} layers | give --schedule LAYER:KEPT,..."
            )
        uncut = [layer for layer in layers if layer not in cuts]
        if uncut:
            raise PlanError(
                f"plan | schedule names layers {uncut} | expected layers among the boundaries "
                f"{list(cuts)} | add them to the boundaries"
            )
        nominal = None
        if schedule is None and chosen.prunes:
            nominal = round(budget_tokens(budget, num_visual))
        source = resolved.source if resolved else "not pruned"
        return cls(method, cuts, resolved, nominal, source)


def plan_stages(num_layers: int, boundaries: Iterable[int]) -> tuple[StageSpec, ...]:
    """Cut `num_layers` decoder layers after each boundary layer.

    Args:
        num_layers: Decoder layers of the model.
        boundaries: Pruning layers, ascending.

    Returns:
        The stages in order; together they cover every layer once.
    """
    edges = [0, *(layer + 1 for layer in boundaries), num_layers]
    return tuple(
        StageSpec(graph=f"stage_{i}", first=first, stop=stop)
        for i, (first, stop) in enumerate(pairwise(edges))
    )


def _schedule(
    method: Method,
    schedule: Mapping[int, int] | str | Schedule | None,
    budget: Budget,
    num_layers: int,
    num_visual: int,
    cuts: tuple[int, ...] | None,
) -> Schedule | None:
    if not method.prunes:
        return None
    if schedule is not None:
        return Schedule.read(schedule)
    if method.counts == "rank":
        raise PlanError(
            f"plan | method {method.name!r} as the default | expected one whose counts are known "
            "before the prompt | leave it to requests: every bundle serves it"
        )
    return budget_schedule(budget, method.name, num_visual, num_layers, cuts)


def _other_cuts(budget: Budget, num_layers: int, num_visual: int) -> tuple[int, ...]:
    """Places that other methods prune at: budgets' own, and the fourth one of the rank."""
    by_rank = placed_layers(AUTHORS_RANK_LAYERS, num_layers)
    return (*budget_layers(budget, num_visual, num_layers), *by_rank)
