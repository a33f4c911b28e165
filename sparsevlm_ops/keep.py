"""A prune step that keeps the best tokens and lets the others go."""

from torch import Tensor

from sparsevlm_ops.prune import Pruned, next_positions, read_count, source_rows, take_rows
from sparsevlm_ops.scoring import visual_scores
from sparsevlm_ops.selection import select


def keep_step(
    hidden_states: Tensor,
    position_ids: Tensor,
    rater_attention: Tensor,
    rater_weights: Tensor,
    prefix_length: Tensor,
    num_kept: Tensor,
    original_positions: Tensor,
) -> Pruned:
    """Keep the K visual tokens of highest score, in order; nothing is merged.

    Args:
        hidden_states: As in `prune.prune_step`, like all others.
        position_ids: `[B, S]`, int64.
        rater_attention: `[B, H, R, V]`, float32; one row of given scores, `[B, 1, 1, V]`, serves.
        rater_weights: `[B, R]`, float32.
        prefix_length: P, `[1]`, int64.
        num_kept: K, `[1]`, int64, 1 to V - 1.
        original_positions: `[1]`, int64.

    Raises:
        ValueError: K is not between 1 and V - 1.

    Source: FastV (arXiv 2403.06764) 4.1: the best by attention of the last token, averaged over
    heads, under their own position ids.
    """
    S, V = hidden_states.shape[1], rater_attention.shape[3]
    K = read_count(num_kept, V)
    scores = visual_scores(rater_attention, rater_weights)
    kept, nothing = select(scores, K, 0)
    rows = source_rows(kept, prefix_length, V, 0, S)
    return Pruned(
        next_hidden_states=take_rows(hidden_states, rows),
        next_position_ids=next_positions(position_ids, rows, original_positions),
        visual_scores=scores,
        kept_index=kept,
        merge_candidates=nothing,
    )
