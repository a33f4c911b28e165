"""How many visual tokens are kept after which layer, and every count that follows from it."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from sparsevlm_ops.cells import Grid, poolings

# Budget (average visual tokens a layer sees, V=576, 32 layers) -> {pruning layer: tokens kept}.
# Source: the authors' repository (Gumpest/SparseVLMs), v1.5, `retained_tokens`; 96 is its main.
AUTHORS_SCHEDULES: dict[int, dict[int, int]] = {
    192: {2: 300, 6: 200, 15: 110},
    128: {2: 303, 6: 110, 15: 36},
    96: {2: 238, 6: 48, 15: 26},
    64: {2: 66, 6: 30, 15: 17},
}
# The authors have no 32. Ours is half of each count of 64, rounded down. Its true average is 52:
# the two layers before the first boundary see all 576 tokens, which makes 36 if nothing follows.
BUDGETS: dict[int, dict[int, int]] = AUTHORS_SCHEDULES | {
    32: {layer: count // 2 for layer, count in AUTHORS_SCHEDULES[64].items()}
}
# Visual tokens of the model that the budgets are made for (LLaVA-1.5).
BUDGET_VISUAL_TOKENS = 576
GIVEN = "given by the user"


@dataclass(frozen=True, slots=True)
class Schedule:
    """Tokens kept after each pruning layer.

    Attributes:
        kept: Pairs (layer, tokens kept), layers ascending; pruning acts on that layer's output.
        source: Where the numbers come from; equal schedules may differ in it.

    Raises:
        ValueError: No pair, layers not ascending or negative, or a count below 1.
    """

    kept: tuple[tuple[int, int], ...]
    source: str = field(default=GIVEN, compare=False)

    def __post_init__(self) -> None:
        """Refuse what cannot be a schedule."""
        problems = []
        layers = self.layers
        if not self.kept:
            problems.append("no pruning layer")
        if any(layer < 0 for layer in layers):
            problems.append("a negative layer")
        if list(layers) != sorted(set(layers)):
            problems.append("layers that do not ascend")
        problems += [f"count {n} at layer {layer}" for layer, n in self.kept if n < 1]
        if problems:
            raise ValueError(
                f"schedule {self.spell()!r} | got {', '.join(problems)} | expected ascending "
                "layers with counts of 1 or more | write it like 2:300,6:200,15:110"
            )

    @classmethod
    def of(cls, kept: Mapping[int, int], source: str = GIVEN) -> "Schedule":
        """Make a schedule from `{layer: tokens kept}`, in any order of the layers."""
        return cls(tuple(sorted((int(layer), int(n)) for layer, n in kept.items())), source)

    @classmethod
    def read(cls, given: "Schedule | str | Mapping[int, int]") -> "Schedule":
        """Take a schedule as it is, in its spelling, or as `{layer: tokens kept}`.

        Raises:
            ValueError: It cannot be one.
        """
        if isinstance(given, Schedule):
            return given
        return cls.parse(given) if isinstance(given, str) else cls.of(given)

    @classmethod
    def parse(cls, text: str) -> "Schedule":
        """Read the spelling `2:300,6:200,15:110`.

        Raises:
            ValueError: The text is not of that form, or not a schedule.
        """
        pairs = []
        for part in text.split(","):
            layer, colon, count = part.strip().partition(":")
            if not (colon and layer.isdecimal() and count.isdecimal()):
                raise ValueError(
                    f"schedule {text!r} | got the part {part.strip()!r} | expected LAYER:COUNT "
                    "in whole numbers | write it like 2:300,6:200,15:110"
                )
            pairs.append((int(layer), int(count)))
        return cls(tuple(pairs))

    @classmethod
    def from_budget(cls, budget: int, num_layers: int) -> "Schedule":
        """Take the schedule of a budget, without the layers a model does not reach.

        It is method `sparsevlm`'s; `matching.equal_schedule` makes another method's of it.

        Args:
            budget: Nominal average number of visual tokens, one of `BUDGETS`.
            num_layers: Decoder layers of the model; its last layer's output is not pruned.

        Raises:
            ValueError: The budget is unknown, or the model has no layer after the first boundary.
        """
        if budget not in BUDGETS:
            known = ", ".join(str(number) for number in BUDGETS)
            raise ValueError(
                f"budget | got {budget} | expected one of: {known} | "
                "name one of them, or spell a schedule like 2:300,6:200,15:110"
            )
        reached = {
            layer: count for layer, count in BUDGETS[budget].items() if layer < num_layers - 1
        }
        if not reached:
            raise ValueError(
                f"budget {budget} | got a model of {num_layers} layers | expected 4 or more, "
                "as the first pruning layer is 2 | spell a schedule for this model"
            )
        return cls.of(reached, budget_source(budget))

    @property
    def layers(self) -> tuple[int, ...]:
        """The pruning layers, ascending."""
        return tuple(layer for layer, _ in self.kept)

    def as_dict(self) -> dict[int, int]:
        """Return `{layer: tokens kept}`."""
        return dict(self.kept)

    def spell(self) -> str:
        """Return the spelling that `parse` reads."""
        return ",".join(f"{layer}:{count}" for layer, count in self.kept)

    def check_layers(self, num_layers: int) -> None:
        """Check that every pruning layer of this schedule has a layer after it.

        Raises:
            ValueError: A layer is the model's last one or beyond.
        """
        beyond = [layer for layer in self.layers if layer >= num_layers - 1]
        if beyond:
            raise ValueError(
                f"schedule {self.spell()!r} | got pruning layers {beyond} | expected 0 to "
                f"{num_layers - 2} for a model of {num_layers} layers | leave them out"
            )


def budget_source(budget: int) -> str:
    """Say where the table of a budget comes from."""
    if budget in AUTHORS_SCHEDULES:
        return f"SparseVLM v1.5, table for {budget} tokens"
    return f"ours: half of SparseVLM v1.5's table for {2 * budget} tokens, rounded down"


@dataclass(frozen=True, slots=True)
class BoundaryCounts:
    """Visual tokens at one boundary: `num_out == num_kept + num_merged`.

    Attributes:
        layer: The pruning layer.
        num_in: Visual tokens before the step.
        num_kept: Of these, kept as they are.
        num_candidates: Dropped tokens that are merged; the other dropped ones are lost.
        num_merged: Tokens that the candidates become.
        num_out: Visual tokens after the step.
    """

    layer: int
    num_in: int
    num_kept: int
    num_candidates: int
    num_merged: int
    num_out: int

    @property
    def prunes(self) -> bool:
        """Whether there is a step at all: else all tokens are kept."""
        return self.num_kept < self.num_in

    @property
    def num_asked(self) -> int:
        """What the prune graph is asked for: tokens to keep or, where all are merged, cells."""
        return self.num_merged if self.num_candidates == self.num_in else self.num_kept


def num_kept(requested: int, num_visual: int) -> int:
    """Tokens kept of `num_visual`: what is requested, but one token at least is dropped.

    Source: SparseVLM v1.5, K = min(budget, n - 1).
    """
    return min(requested, num_visual - 1)


def num_candidates(dropped: int) -> int:
    """Dropped tokens that are merged, of `dropped` (1 or more): floor(3/10 of them) + 1.

    Source: SparseVLM v1.5 recycles the best 30 % of the dropped tokens.
    """
    return 3 * dropped // 10 + 1


def num_merged(candidates: int) -> int:
    """Clusters, hence merged tokens, of `candidates`: floor(1/10 of them) + 1.

    Source: SparseVLM v1.5; the same number is the k of the k nearest neighbours.
    """
    return candidates // 10 + 1


def boundary_counts(
    schedule: Schedule, num_visual: int, recycles: bool = True, pools: Grid | None = None
) -> tuple[BoundaryCounts, ...]:
    """Follow `num_visual` tokens through the boundaries of a schedule.

    A boundary that sees fewer than 2 visual tokens leaves them alone: one must be dropped and one
    must stay. So does one that would pool a grid to as many cells as it has.

    Args:
        schedule: Tokens kept after each pruning layer.
        num_visual: Visual tokens before the first layer.
        recycles: Whether dropped tokens come back merged.
        pools: The grid of the tokens (`cells.block_grid`) for a method that averages all of them
            in cells: nothing is kept, and the counts are those of the nearest grids.
    """
    if pools is not None:
        return tuple(
            _pooled(step.layer, step.num_in, step.num_out)
            for step in poolings(schedule.kept, pools)
        )
    steps = []
    for layer, requested in schedule.kept:
        if num_visual < 2:
            steps.append(BoundaryCounts(layer, num_visual, num_visual, 0, 0, num_visual))
            continue
        step = counts_of(layer, num_visual, num_kept(requested, num_visual), recycles)
        steps.append(step)
        num_visual = step.num_out
    return tuple(steps)


def counts_of(layer: int, num_visual: int, kept: int, recycles: bool) -> BoundaryCounts:
    """Count what a boundary leaves that keeps `kept` of `num_visual` tokens, fewer than all."""
    candidates = num_candidates(num_visual - kept) if recycles else 0
    merged = num_merged(candidates) if recycles else 0
    return BoundaryCounts(layer, num_visual, kept, candidates, merged, kept + merged)


def _pooled(layer: int, num_in: int, num_out: int) -> BoundaryCounts:
    if num_out == num_in:
        return BoundaryCounts(layer, num_in, num_in, 0, 0, num_in)
    return BoundaryCounts(layer, num_in, 0, num_in, num_out, num_out)


def stage_visual_counts(
    schedule: Schedule, num_visual: int, recycles: bool = True, pools: Grid | None = None
) -> tuple[int, ...]:
    """Visual tokens that the layers of each stage compute on, first stage to last."""
    steps = boundary_counts(schedule, num_visual, recycles, pools)
    return (num_visual, *(step.num_out for step in steps))


def visual_counts(
    schedule: Schedule,
    num_visual: int,
    num_layers: int,
    recycles: bool = True,
    pools: Grid | None = None,
) -> tuple[int, ...]:
    """Visual tokens of each layer, a pruning layer counted with its output, as the paper counts.

    Raises:
        ValueError: A pruning layer has no layer after it in a model of `num_layers`.
    """
    schedule.check_layers(num_layers)
    steps = boundary_counts(schedule, num_visual, recycles, pools)
    out_of = {step.layer: step.num_out for step in steps}
    counts = []
    for layer in range(num_layers):
        num_visual = out_of.get(layer, num_visual)
        counts.append(num_visual)
    return tuple(counts)


def average_visual_tokens(
    schedule: Schedule,
    num_visual: int,
    num_layers: int,
    recycles: bool = True,
    pools: Grid | None = None,
) -> float:
    """Mean of `visual_counts` over the layers: the true figure behind a nominal budget."""
    return sum(visual_counts(schedule, num_visual, num_layers, recycles, pools)) / num_layers
