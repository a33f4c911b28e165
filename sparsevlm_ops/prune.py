"""The whole prune step between two stages: score, select, merge, and lay the next sequence."""

from typing import NamedTuple, cast

import torch
from torch import Tensor

from sparsevlm_ops.recycling import cluster_means, clusters
from sparsevlm_ops.schedule import num_candidates, num_merged
from sparsevlm_ops.scoring import visual_scores
from sparsevlm_ops.selection import select


class Pruned(NamedTuple):
    """What a prune step gives, in the order of the graph's outputs.

    Attributes:
        next_hidden_states: prefix | kept | merged | suffix, `[B, S - V + K + C, N]`.
        next_position_ids: `[B, S - V + K + C]`, int64.
        visual_scores: `[B, V]`, float32.
        kept_index: `[B, K]`, int64, ascending, relative to the visual block.
        merge_candidates: `[B, M]`, int64, descending by score, relative to the visual block.
    """

    next_hidden_states: Tensor
    next_position_ids: Tensor
    visual_scores: Tensor
    kept_index: Tensor
    merge_candidates: Tensor


def take_rows(states: Tensor, index: Tensor) -> Tensor:
    """Gather whole rows of each batch entry: `[B, L, N]` by `[B, n]` gives `[B, n, N]`."""
    B, L, N = states.shape
    first = torch.arange(B, device=states.device)[:, None] * L  # [B, 1]
    # One flat Gather moves rows; an index as wide as the rows would be larger than they are.
    rows = torch.index_select(states.reshape(B * L, N), 0, (index + first).reshape(-1))
    return rows.reshape(B, index.shape[1], N)


def read_count(num_kept: Tensor, num_visual: int, least: int = 1) -> int:
    """Read K, and tell the tracer, which cannot see it, that it is a right one.

    Raises:
        ValueError: K is not between `least` and V - 1.
    """
    K = cast("int", num_kept.item())
    for holds in (least <= K, num_visual > K):
        torch._check_value(  # type: ignore[no-untyped-call]
            holds,
            lambda: (
                f"num_kept | got {K} of {num_visual} visual tokens | expected {least} to "
                f"{num_visual - 1} | use sparsevlm_ops.schedule.num_kept"
            ),
        )
    return K


def source_rows(
    kept: Tensor, prefix_length: Tensor, num_visual: int, num_merged: int, length: int
) -> Tensor:
    """Find the row that each place of the next sequence is taken from.

    The prefix length is data, not shape, so no slice can be cut: each place works it out.

    Args:
        kept: `[B, K]`, ascending, relative to the visual block.
        prefix_length: P, `[1]`.
        num_visual: V.
        num_merged: C; merged rows lie behind the old sequence.
        length: S, of the old sequence.

    Returns:
        `[B, S - V + K + C]`, int64: prefix | kept | merged | suffix.
    """
    K = kept.shape[1]
    place = torch.arange(length - num_visual + K + num_merged, device=kept.device)
    among_kept = place - prefix_length
    # One column more, so that there is one to point at where nothing is kept.
    padded = torch.cat([kept, kept.new_zeros(kept.shape[0], 1)], dim=1)
    kept_row = torch.index_select(padded, 1, among_kept.clamp(0, K)) + prefix_length
    behind = torch.where(
        among_kept < K + num_merged,
        length + among_kept - K,
        place + (num_visual - K - num_merged),
    )
    source = torch.where(among_kept < K, kept_row, behind)
    return torch.where(among_kept < 0, place, source)


def take_numbers(position_ids: Tensor, index: Tensor) -> Tensor:
    """Gather position ids `[B, L]` or `[B, L, 3]` by `[B, n]`."""
    if position_ids.dim() == 3:
        index = index[:, :, None].expand(-1, -1, position_ids.shape[2])
    return torch.gather(position_ids, 1, index)


def next_positions(position_ids: Tensor, rows: Tensor, original: Tensor) -> Tensor:
    """Number the next sequence.

    Args:
        position_ids: `[B, S + C]` (or three numbers a token, `[B, S + C, 3]`), int64: those of
            the old sequence, then of the merged tokens.
        rows: Of `source_rows`, `[B, S']` with S' of S at most.
        original: `[1]`, int64. 0: the survivors take the first numbers of the old sequence.
            1: each keeps its own.

    Returns:
        `[B, S']` or `[B, S', 3]`, int64.
    """
    own = take_numbers(position_ids, rows)
    return torch.where(original == 0, position_ids.narrow(1, 0, rows.shape[1]), own)


def prune_step(
    hidden_states: Tensor,
    position_ids: Tensor,
    rater_attention: Tensor,
    rater_weights: Tensor,
    prefix_length: Tensor,
    num_kept: Tensor,
    original_positions: Tensor,
    residual_scale: float = 1.0,
) -> Pruned:
    """Prune the visual tokens of a stage's output, and merge some of the dropped ones.

    Args:
        hidden_states: `[B, S, N]`, float32 or float16: P prefix, V visual, then text.
        position_ids: `[B, S]`, int64.
        rater_attention: `[B, H, R, V]`, float32, of `scoring.rater_attention`.
        rater_weights: `[B, R]`, float32, 1 or, for padding, 0.
        prefix_length: P, `[1]`, int64.
        num_kept: K, `[1]`, int64, 0 to V - 1.
        original_positions: `[1]`, int64. 0: the survivors are numbered without gaps. 1: they keep
            their position ids, and a merged token has that of its cluster's centre.
        residual_scale: What the model's hidden states were multiplied by, a power of two.

    Raises:
        ValueError: K is not between 0 and V - 1.

    Source: SparseVLM 3.3 and 3.4; the authors' code, v1.5 and v1.0.
    """
    S, V = hidden_states.shape[1], rater_attention.shape[3]
    K = read_count(num_kept, V, least=0)
    M = num_candidates(V - K)
    C = num_merged(M)

    scores = visual_scores(rater_attention, rater_weights)
    kept, candidates = select(scores, K, M)
    tokens = take_rows(hidden_states, candidates + prefix_length)
    # Densities depend on the scale; float32 undoes it without rounding.
    own = tokens if residual_scale == 1.0 else tokens.float() / residual_scale
    centres, member = clusters(own, C)
    merged = cluster_means(tokens, member)
    at_centres = take_numbers(position_ids, torch.gather(candidates, 1, centres) + prefix_length)
    rows = source_rows(kept, prefix_length, V, C, S)
    numbers = torch.cat([position_ids, at_centres], dim=1)
    return Pruned(
        next_hidden_states=take_rows(torch.cat([hidden_states, merged], dim=1), rows),
        next_position_ids=next_positions(numbers, rows, original_positions),
        visual_scores=scores,
        kept_index=kept,
        merge_candidates=candidates,
    )
