"""One boundary of the reference in plain PyTorch: rows cut by slices, merged and rejoined."""

from dataclasses import dataclass

import torch
from torch import Tensor

from sparsevlm_ops.methods import Method
from sparsevlm_ops.recycling import clusters, merge_clusters
from sparsevlm_ops.schedule import BoundaryCounts
from sparsevlm_ops.selection import select


@dataclass(frozen=True, slots=True, eq=False)
class ReferenceStage:
    """What happened at one boundary.

    Attributes:
        layer: The pruning layer.
        scores: Visual scores, `[V]`, float32; a replay's own where it gives scores.
        kept: `[K]`, ascending, relative to this stage's visual block.
        merge_candidates: `[M]`, descending by score; all tokens, in order, where all are pooled.
        merged: Merged tokens, `[C, N]`.
        hidden: Input of the next layer, `[S', N]`.
        position_ids: From the next layer on, `[S']`.
        num_visual_in: V before.
        num_visual_out: K + C.
    """

    layer: int
    scores: Tensor
    kept: Tensor
    merge_candidates: Tensor
    merged: Tensor
    hidden: Tensor
    position_ids: Tensor
    num_visual_in: int
    num_visual_out: int


def reference_step(
    rules: Method,
    counts: BoundaryCounts,
    hidden: Tensor,
    positions: Tensor,
    scores: Tensor,
    prefix_length: int,
    replay: Tensor | None,
    num_words: int,
) -> ReferenceStage:
    """Keep, merge and rejoin.

    Args:
        rules: The method.
        counts: How many visual tokens come and stay, words not counted.
        hidden: Input of the next layer if nothing were pruned, `[S, N]`.
        positions: `[S]`, or `[S, 3]`.
        scores: Visual scores, `[1, V]`.
        prefix_length: P.
        replay: A decision in place of this one; see `reference.pruned_generate`.
        num_words: Words between images among the V, which always stay.

    Raises:
        ValueError: A replayed index of another size.
    """
    P, V, K = prefix_length, counts.num_in + num_words, counts.num_kept + num_words
    ranked = scores
    if replay is not None and replay.is_floating_point():
        ranked = scores = replay.reshape(1, V).to(scores)
    elif replay is not None:
        if replay.numel() != K:
            raise ValueError(
                f"replay | got {replay.numel()} kept tokens at layer {counts.layer} | expected "
                f"{K} | replay them with the schedule they were made with"
            )
        ranked = scores.index_fill(1, replay.reshape(-1).to(scores.device), torch.inf)
    prefix, visual, suffix = hidden[:P], hidden[P : P + V], hidden[P + V :]
    if rules.pools:
        kept = torch.arange(0, device=hidden.device)
        candidates = torch.arange(V, device=hidden.device)
        cells = [visual[scores[0] == cell] for cell in range(counts.num_merged)]
        merged = torch.stack([cell.float().mean(dim=0) for cell in cells]).to(hidden.dtype)
    else:
        kept, candidates = (rows[0] for rows in select(ranked, K, counts.num_candidates))
        merged = visual[:0]
    if rules.recycles:
        merged = merge_clusters(visual[candidates][None], counts.num_merged)[0]
    following = torch.cat([prefix, visual[kept], merged, suffix])
    next_positions = positions[: len(following)]
    if rules.positions == "original":
        block = positions[P : P + V]
        numbers = _merged_positions(rules, counts, block, visual, candidates, scores[0])
        next_positions = torch.cat([positions[:P], block[kept], numbers, positions[P + V :]])
    return ReferenceStage(
        layer=counts.layer,
        scores=scores[0],
        kept=kept,
        merge_candidates=candidates,
        merged=merged,
        hidden=following,
        position_ids=next_positions,
        num_visual_in=V,
        num_visual_out=K + len(merged),
    )


def _merged_positions(
    rules: Method,
    counts: BoundaryCounts,
    positions: Tensor,
    visual: Tensor,
    candidates: Tensor,
    scores: Tensor,
) -> Tensor:
    """Find where merged tokens stand: at their cluster's centre, or amid their cell."""
    if rules.pools:
        cells = [positions[scores == cell] for cell in range(counts.num_merged)]
        return torch.stack([cell.sum() // len(cell) for cell in cells])
    if not rules.recycles:
        return positions[:0]
    centres = clusters(visual[candidates][None], counts.num_merged)[0]
    return positions[candidates[centres[0]]]
