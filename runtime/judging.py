"""What happens between a stage's attention and the prune step: correct the scores, count by rank.

Dims: B batch, R raters, V visual tokens now, H heads.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sparsevlm_ops.schedule import BoundaryCounts, counts_of
from sparsevlm_trt.runtime.boundary import Pruning, Votes
from sparsevlm_trt.runtime.device_array import Tensor
from sparsevlm_trt.runtime.errors import InputError

__all__ = ["Asked", "Judged", "judge"]

Index = NDArray[np.int64]
Run = Callable[[str, Mapping[str, Tensor]], Mapping[str, Tensor]]


@dataclass(frozen=True, slots=True, eq=False)
class Asked:
    """What a boundary asked a stage, and the stage's answer.

    Attributes:
        layer: The pruning layer.
        num_visual: V.
        attention: Of the raters, `[B, H, R, V]` float32; `[B, 1, 1, V]` where scores were given.
        positions: Position ids of the sequence, `[B, S]`, or `[B, S, 3]` by M-RoPE.
        rater_index: Rows of the raters in the sequence, `[B, R]`.
        visual_index: Places of the visual tokens in it, `[B, V]`.
    """

    layer: int
    num_visual: int
    attention: Tensor
    positions: Tensor
    rater_index: Index
    visual_index: Index


@dataclass(frozen=True, slots=True, eq=False)
class Judged:
    """What the prune step is given.

    Attributes:
        step: How many tokens go on.
        attention: Attention, or scores as of one rater and one head.
        weights: Of its raters, `[B, R]` float32.
    """

    step: BoundaryCounts
    attention: Tensor
    weights: Tensor


def judge(
    run: Run, pruning: Pruning, votes: Votes, counts: BoundaryCounts | None, asked: Asked
) -> Judged:
    """Score and count as the method says.

    Args:
        run: Runs a judge graph.
        pruning: How the request prunes.
        votes: Who judges; scores that were given are taken as they are.
        counts: How many tokens go on, where that was known beforehand.
        asked: What the stage was asked, and its answer.

    Raises:
        InputError: The rows of a batch would keep different numbers of tokens.
    """
    attention: Tensor = asked.attention
    weights: Tensor = votes.weights
    if votes.scores is not None:
        return Judged(_known(counts, asked.layer), attention, weights)
    if pruning.method.scoring == "gravity":
        attention, weights = _corrected(run, pruning, weights, asked)
    step = counts if counts is not None else _by_rank(run, pruning, votes, asked)
    if pruning.guard.share and step.prunes:
        step = _guarded(pruning, step, asked.num_visual, attention, weights)
    return Judged(step, attention, weights)


def _corrected(run: Run, pruning: Pruning, weights: Tensor, asked: Asked) -> tuple[Tensor, Tensor]:
    """Correct the attention for distance."""
    positions = np.asarray(asked.positions)
    if positions.ndim == 3:  # time, row and column: the text goes on behind the largest
        positions = positions.max(axis=2)
    num_heads = pruning.count_heads(asked.attention.shape[1])
    out = run(
        "gravity",
        {
            "rater_attention": asked.attention,
            "rater_weights": weights,
            "rater_positions": np.take_along_axis(positions, asked.rater_index, axis=1),
            "visual_positions": np.take_along_axis(positions, asked.visual_index, axis=1),
            "num_heads": np.array([num_heads], np.int64),
        },
    )
    return out["corrected_attention"], np.ones((len(positions), 1), np.float32)


def _by_rank(run: Run, pruning: Pruning, votes: Votes, asked: Asked) -> BoundaryCounts:
    """Read the rank of what the raters see, and count by it."""
    assert pruning.rank_rule is not None
    out = run("rank", {"rater_attention": asked.attention, "rater_weights": votes.weights})
    ranks = np.asarray(out["rank"]).tolist()
    steps = {pruning.rank_rule.counts(asked.layer, asked.num_visual, rank) for rank in ranks}
    if len(steps) > 1:
        raise InputError(
            f"batch | got ranks {ranks} at layer {asked.layer} | expected rows that keep as many "
            "tokens as each other | ask method 'sparsevlm-adaptive' one prompt at a time"
        )
    return steps.pop()


def _guarded(
    pruning: Pruning, step: BoundaryCounts, num_visual: int, attention: Tensor, weights: Tensor
) -> BoundaryCounts:
    """Keep as many tokens as the scores' entropy asks for, if the step keeps fewer."""
    votes = np.asarray(weights)[:, :, None]
    scores = (np.asarray(attention).mean(axis=1) * votes).sum(axis=1) / votes.sum(axis=1)
    kept = max(step.num_kept, pruning.guard.least_kept(scores))
    return counts_of(step.layer, num_visual, kept, pruning.method.recycles)


def _known(counts: BoundaryCounts | None, layer: int) -> BoundaryCounts:
    if counts is None:
        raise InputError(
            f"replay | got scores for layer {layer}, but the rank decides how many are kept | "
            "expected a schedule beside them | give the counts of the run to replay"
        )
    return counts
