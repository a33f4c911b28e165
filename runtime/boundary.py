"""What stands between two stages: who votes, what is dropped, and the record of it.

Dims: B batch, V visual tokens now, T text tokens after them, R raters.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from sparsevlm_ops.cells import Grid, block_grid
from sparsevlm_ops.heads import DEFAULT_NUM_HEADS, count_heads
from sparsevlm_ops.methods import Method, Positions
from sparsevlm_ops.rank_rule import RankRule
from sparsevlm_ops.schedule import BoundaryCounts, Schedule, boundary_counts
from sparsevlm_trt.runtime.budget_plan import BudgetPlan
from sparsevlm_trt.runtime.errors import InputError
from sparsevlm_trt.runtime.guard import Guard
from sparsevlm_trt.runtime.runner import Array
from sparsevlm_trt.runtime.trace import StageTrace, block_patches, follow_patches

__all__ = [
    "DECISION_OUTPUTS",
    "WORD_SCORE",
    "Layout",
    "Places",
    "Pruning",
    "Votes",
    "above_all",
    "replayed_votes",
    "stage_trace",
    "votes_of_mask",
]

DECISION_OUTPUTS = ("kept_index", "visual_scores", "merge_candidates")  # of every prune graph

# Above any score: attention is a probability, and no correction of it comes near.
WORD_SCORE = 1e6

Floats = NDArray[np.float32]
Index = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Layout:
    """Where the visual block lies in a prompt, the same in every row of a batch.

    Attributes:
        prefix: Tokens before it.
        num_visual: Tokens in it, from the first visual token to the last.
        num_text: Tokens after it.
        words: Tokens in it that are words between images, counted in it, ascending: no step drops
            them, and they count for nothing.
    """

    prefix: int
    num_visual: int
    num_text: int
    words: tuple[int, ...] = ()

    @property
    def length(self) -> int:
        """Tokens in all."""
        return self.prefix + self.num_visual + self.num_text

    @property
    def num_patches(self) -> int:
        """Visual tokens in the block."""
        return self.num_visual - len(self.words)

    def patches(self) -> Index:
        """The number of each token of the block among the visual ones, `WORD` for words."""
        return block_patches(self.num_visual, self.words)


@dataclass(frozen=True, slots=True, eq=False)
class Places:
    """Positions of a prompt's tokens, the same in every row of a batch.

    Attributes:
        positions: `[S]`, or `[S, 3]` where a token has three; int64.
        following: The position of the token that comes next.
    """

    positions: Index
    following: int

    @classmethod
    def in_order(cls, length: int, num_axes: int) -> Places:
        """Number tokens one after the other, alike on all axes."""
        numbers = np.arange(length, dtype=np.int64)
        return cls(numbers if num_axes == 1 else np.tile(numbers[:, None], num_axes), length)


@dataclass(frozen=True, slots=True)
class Pruning:
    """How one request prunes.

    Attributes:
        method: The method.
        schedule: Tokens kept after each pruning layer; None when nothing is pruned.
        replay: Visual scores of each boundary, `[V]` or `[B, V]`, to use in place of the raters'
            attention; None to let the method decide.
        seed: Of a method that draws its scores.
        rank_rule: Tokens kept by rank, where no schedule says how many.
        num_heads: Heads that score, or their share, for a method that chooses among them.
        positions: How survivors are numbered; None for the method's own way.
        guard: What stays in any case, by the scores.
        by_budget: The budget that `schedule` came from; None where it did not.
        planned_visual: Visual tokens that `schedule` was made for; other prompts get their own.
    """

    method: Method
    schedule: Schedule | None
    replay: tuple[Floats, ...] | None = None
    seed: int = 0
    rank_rule: RankRule | None = None
    num_heads: int | float = DEFAULT_NUM_HEADS
    positions: Positions | None = None
    guard: Guard = field(default_factory=Guard)
    by_budget: BudgetPlan | None = None
    planned_visual: int = 0

    def schedule_for(self, num_visual: int) -> Schedule | None:
        """The schedule of a prompt, by its visual tokens; None where nothing is pruned.

        Raises:
            PlanError: The budget cannot be reached with so many tokens.
        """
        if self.by_budget is None or num_visual == self.planned_visual:
            return self.schedule
        return self.by_budget.schedule(num_visual)

    @property
    def prunes(self) -> bool:
        """Whether any boundary may drop tokens."""
        return any((self.schedule, self.rank_rule, self.by_budget))

    @property
    def waits_for_prompt(self) -> bool:
        """Whether only the prompt's attention says how many tokens stay."""
        return self.rank_rule is not None or self.guard.share > 0

    @property
    def is_compact(self) -> bool:
        """Whether survivors are numbered without gaps."""
        return (self.positions or self.method.positions) == "compact"

    def count_heads(self, available: int) -> int:
        """Count the heads that score, of those the model has."""
        return count_heads(self.num_heads, available)

    def steps(
        self, num_visual: int, image_grid: Grid | None
    ) -> Mapping[int, BoundaryCounts | None]:
        """Count the boundaries that prune, by layer; None where the prompt decides on the way.

        Args:
            num_visual: Tokens of the visual block.
            image_grid: Rows and columns of one image's tokens, if known.
        """
        if self.rank_rule is not None:
            return dict.fromkeys(self.rank_rule.layers if num_visual >= 2 else ())
        schedule = self.schedule_for(num_visual)
        if schedule is None:
            return {}
        pools = block_grid(num_visual, image_grid) if self.method.pools else None
        counts = boundary_counts(schedule, num_visual, self.method.recycles, pools)
        return {step.layer: step for step in counts if step.prunes}


@dataclass(frozen=True, slots=True, eq=False)
class Votes:
    """Who judges the visual tokens, fixed for the whole prompt.

    Attributes:
        offsets: The raters, counted in the text after the visual block, `[B, R]` int64.
        weights: 1 for a rater, 0 for one that only fills the row up, `[B, R]` float32.
        scores: Scores that are there already, one array `[B, V]` for each boundary that prunes;
            None to ask the raters.
    """

    offsets: Index
    weights: Floats
    scores: tuple[Floats, ...] | None = None

    @classmethod
    def nobody(cls, batch: int) -> Votes:
        """Return the votes of a prompt that is not pruned."""
        return cls(np.empty((batch, 0), np.int64), np.empty((batch, 0), np.float32))

    @classmethod
    def last_token(cls, batch: int, num_text: int) -> Votes:
        """Return the vote of a prompt's last token, which is the image's own without a text.

        It is the row that the answer is made from (docs/decisions/004).
        """
        last: Index = np.full((batch, 1), num_text - 1, np.int64)
        return cls(last, np.ones((batch, 1), np.float32))

    @classmethod
    def given(cls, scores: Sequence[Floats], batch: int) -> Votes:
        """Return scores that no token has to be asked for, `[V]` or `[B, V]`, as of one rater."""
        rows = tuple(np.broadcast_to(each, (batch, each.shape[-1])) for each in scores)
        return cls(np.empty((batch, 0), np.int64), np.ones((batch, 1), np.float32), rows)


def above_all(attention: Array, words: Index, num_visual: int) -> Floats:
    """Lift words above every visual token.

    Args:
        attention: Attention or scores, `[B, ..., V]`, or of the visual tokens alone.
        words: Words of the block, `[B, W]`.
        num_visual: V, tokens of the block.

    Returns:
        `[B, ..., V]` float32.
    """
    lifted = np.full((*attention.shape[:-1], num_visual), WORD_SCORE, np.float32)
    for row, places in enumerate(words):
        others = np.delete(np.arange(num_visual), places)
        whole = attention.shape[-1] == num_visual
        lifted[row][..., others] = attention[row][..., others] if whole else attention[row]
    return lifted


def votes_of_mask(mask: NDArray[np.bool_]) -> Votes:
    """Turn a rater mask `[B, T]` into votes.

    Every row has a rater (`sparsevlm_ops.raters.rater_mask`); rows with fewer than others are
    filled up with weight 0.
    """
    most = int(mask.sum(axis=1).max())
    offsets: Index = np.argsort(~mask, axis=1, kind="stable")[:, :most]  # the raters come first
    return Votes(offsets, np.take_along_axis(mask, offsets, axis=1).astype(np.float32))


def replayed_votes(replay: Sequence[Floats], counts: Mapping[int, int], batch: int) -> Votes:
    """Check scores to replay.

    Args:
        replay: Scores of each boundary that prunes, `[V]` or `[B, V]`.
        counts: `{layer: V}` of those boundaries, ascending.
        batch: Rows.

    Raises:
        InputError: Not one array for each boundary, or one of another shape.
    """
    if len(replay) != len(counts):
        raise InputError(
            f"replay | got {len(replay)} score arrays | expected {len(counts)}, one for each "
            f"boundary that prunes ({', '.join(map(str, counts)) or 'none'}) | give exactly those"
        )
    for scores, (layer, num_visual) in zip(replay, counts.items(), strict=True):
        if scores.shape not in ((num_visual,), (batch, num_visual)):
            raise InputError(
                f"replay | got scores {list(scores.shape)} at layer {layer} | expected "
                f"[{num_visual}], one for each visual token there | replay them with the "
                "schedule they were made with"
            )
    return Votes.given(replay, batch)


def stage_trace(
    layer: int, out: Mapping[str, Array], row: int, num_in: int, num_out: int, patches: Index
) -> StageTrace:
    """Read one row's decision from a prune step's outputs.

    Args:
        layer: The pruning layer.
        out: The `DECISION_OUTPUTS` of the prune graph.
        row: Row of the batch.
        num_in: Visual tokens before the step.
        num_out: Visual tokens after it.
        patches: The image patch of each token before it, `[num_in]`.
    """
    kept = out["kept_index"][row]
    num_merged = num_out - kept.shape[0]
    return StageTrace(
        layer=layer,
        num_visual_in=num_in,
        num_visual_out=num_out,
        num_merged=num_merged,
        kept=kept,
        scores=out["visual_scores"][row],
        merge_candidates=out["merge_candidates"][row],
        patches=follow_patches(patches, kept, num_merged),
    )
