"""Which visual tokens stay, and which of the dropped ones are worth merging."""

import torch
from torch import Tensor

from sparsevlm_ops.topk import top_k


def select(scores: Tensor, num_kept: int, num_candidates: int) -> tuple[Tensor, Tensor]:
    """Split visual tokens by score into the kept and the merge candidates.

    Of equal scores the lower index wins, so the split is the same on every run.

    Args:
        scores: `[B, V]`, float32.
        num_kept: K, 1 or more.
        num_candidates: M, with K + M <= V; 0 for a method that merges nothing.

    Returns:
        The kept index `[B, K]`, ascending (sequence order), and the index of the M best dropped
        tokens `[B, M]`, descending by score; both int64, relative to the visual block.

    Source: the authors' code, v1.5: the best 30 % of the dropped tokens are merged.
    """
    # The dropped tokens follow the kept ones in score order, so one TopK serves both.
    _, order = top_k(scores, num_kept + num_candidates)
    kept = torch.sort(order.narrow(1, 0, num_kept), dim=-1).values
    return kept, order.narrow(1, num_kept, num_candidates)
