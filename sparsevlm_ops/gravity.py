"""Scores corrected for distance: a rotary model looks at what is near, whatever it is."""

import math
from typing import cast

import torch
from torch import Tensor

from sparsevlm_ops.topk import top_k

# The authors ran it on prompts of up to about 700 tokens: up to here their formula holds as it is.
AUTHORS_REACH = 704
# Further on it holds as long as it stays above this share of its value at distance 0.
LEAST_WEIGHT = 0.1


def gravity_weights(inv_freq: Tensor, head_dim: int, max_position: int) -> Tensor:
    """Tabulate how much a rotary model favours each distance.

        W(x) = < RoPE(ones, 0), RoPE(ones, x) > / sqrt(D)
             = ( 2 * sum over f of cos(x * theta_f) + D - 2 F ) / sqrt(D)

    The sum goes through zero at long distances (D = 128 and base 10000: from about 700 on), where
    scores divided by it blow up and change sign. So the table ends where the weight first falls
    below a tenth of W(0), though not within the reach that the authors used: whatever is farther
    away is corrected as much as the last entry.

    Args:
        inv_freq: The model's rotary frequencies theta, `[F]`.
        head_dim: D; 2 F of a head's dimensions rotate.
        max_position: Positions of the model.

    Returns:
        `[X]`, float32: the weight of the distances 0 to X - 1.

    Source: the authors' code, v2.0, without any bound.
    """
    distance = torch.arange(max(2, max_position), dtype=torch.float64, device=inv_freq.device)
    turned = torch.cos(distance[:, None] * inv_freq.double()).sum(dim=1)
    still = head_dim - 2 * inv_freq.numel()
    weights = (2.0 * turned + still) / math.sqrt(head_dim)
    low = (weights < LEAST_WEIGHT * weights[0]).nonzero()[:, 0]
    reach = int(low[0]) if low.numel() else len(weights)
    return weights[: max(reach, min(AUTHORS_REACH, len(weights)))].float()


def gravity_scores(
    attention: Tensor,
    weights: Tensor,
    rater_positions: Tensor,
    visual_positions: Tensor,
    num_heads: int,
    table: Tensor,
) -> Tensor:
    """Score visual tokens by corrected attention of the heads that look at them most.

        A'[h, i, j] = A[h, i, j] / W(|pos_i - pos_j|)
        heads       = the `num_heads` with the largest sum of A' over raters i and tokens j
        score_j     = mean over these heads, then over the raters, of A'[h, i, j]

    Args:
        attention: `[B, H, R, V]`, float32, of `scoring.rater_attention`.
        weights: `[B, R]`, float32: 1 for a rater, 0 for padding.
        rater_positions: Position ids, `[B, R]`, int64.
        visual_positions: Position ids, `[B, V]`, int64.
        num_heads: 1 to H.
        table: Of `gravity_weights`, `[X]`, float32.

    Returns:
        `[B, V]`, float32.

    Source: the authors' code, v2.0.
    """
    B, _, R, V = attention.shape
    distance = (rater_positions[:, :, None] - visual_positions[:, None, :]).abs()  # [B, R, V]
    place = distance.clamp(max=table.shape[0] - 1).reshape(-1)
    favour = torch.index_select(table, 0, place).reshape(B, 1, R, V)
    corrected = attention / favour * weights[:, None, :, None]
    per_head = corrected.sum(dim=2)  # [B, H, V], over raters
    _, chosen = top_k(per_head.sum(dim=2), num_heads)  # [B, num_heads]
    rows = torch.gather(per_head, 1, chosen[:, :, None].expand(B, num_heads, V))
    return rows.mean(dim=1) / weights.sum(dim=1, keepdim=True)


def read_heads(num_heads: Tensor, available: int) -> int:
    """Read how many heads score, `[1]` int64, and tell the tracer that it is a right number.

    Raises:
        ValueError: Not between 1 and `available`.
    """
    count = cast("int", num_heads.item())
    for holds in (count >= 1, count <= available):
        torch._check_value(  # type: ignore[no-untyped-call]
            holds,
            lambda: (
                f"num_heads | got {count} of {available} heads | expected 1 to {available} | "
                "use sparsevlm_ops.heads.count_heads"
            ),
        )
    return count
