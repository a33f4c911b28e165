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

from sparsevlm_ops.methods import get_method
from sparsevlm_ops.schedule import Schedule
from sparsevlm_trt.runtime.errors import PlanError
from sparsevlm_trt.runtime.manifest import StageSpec

__all__ = ["PruningPlan", "plan_stages"]


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
        budget: int | None = None,
        schedule: Mapping[int, int] | str | Schedule | None = None,
        boundaries: Iterable[int] | None = None,
    ) -> PruningPlan:
        """Resolve what the user asked for against a model's depth.

        Args:
            num_layers: Decoder layers of the model.
            method: A registered method, or `none`.
            budget: 192, 128, 96 or 64; ignored when a schedule is given.
            schedule: Tokens kept by layer, as a mapping or as `2:300,6:200`.
            boundaries: Places to cut, when they should differ from the schedule's layers (a
                cut that the default schedule does not use is open to a request's schedule).

        Raises:
            PlanError: Unknown method, budget, or layers this model does not have.
        """
        try:
            chosen = get_method(method)
            resolved = _schedule(schedule, budget, num_layers) if chosen.prunes else None
        except ValueError as error:
            raise PlanError(str(error)) from error
        layers = resolved.layers if resolved else ()
        cuts = tuple(sorted(set(boundaries))) if boundaries is not None else layers
        bad = [layer for layer in {*cuts, *layers} if not 0 <= layer < num_layers - 1]
        if bad:
            raise PlanError(
                f"plan | pruning after layer {', '.join(map(str, sorted(bad)))} "
                f"| expected layers 0 to {num_layers - 2} of this {num_layers}-layer model "
                "| give --schedule LAYER:KEPT,..."
            )
        uncut = [layer for layer in layers if layer not in cuts]
        if uncut:
            raise PlanError(
                f"plan | schedule names layers {uncut} | expected layers among the boundaries "
                f"{list(cuts)} | add them to the boundaries"
            )
        nominal = None if schedule is not None or not chosen.prunes else budget
        return cls(method, cuts, resolved, nominal, _source(schedule, nominal, chosen.prunes))


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
    schedule: Mapping[int, int] | str | Schedule | None, budget: int | None, num_layers: int
) -> Schedule:
    if isinstance(schedule, Schedule):
        return schedule
    if isinstance(schedule, str):
        return Schedule.parse(schedule)
    if schedule is not None:
        return Schedule.of(schedule)
    if budget is None:
        raise PlanError("plan | no budget and no schedule | expected one of them | add --budget")
    return Schedule.from_budget(budget, num_layers)


def _source(schedule: object, budget: int | None, prunes: bool) -> str:
    if not prunes:
        return "not pruned"
    if schedule is not None:
        return "given by the user"
    return f"SparseVLM v1.5, table for {budget} tokens"
