"""How important each visual token is to the text raters."""

import torch
from torch import Tensor


def rater_attention(
    query: Tensor, key: Tensor, mask: Tensor, visual_index: Tensor, scale: float
) -> Tensor:
    """Compute the attention that the raters' rows alone pay to the visual tokens.

    The softmax runs over all keys, so the result is not normalised over the visual ones.

    Args:
        query: The raters' query rows, rotary applied, `[B, H, R, D]`.
        key: All keys of the layer, rotary applied, `[B, G, L, D]`; head h reads key head
            h // (H / G).
        mask: Additive, broadcastable to `[B, 1, R, L]`: 0, or very negative where a row must
            not look.
        visual_index: Columns of the visual tokens among the keys, `[B, V]`, int64.
        scale: Factor on the dot products, 1/sqrt(D) as a rule.

    Returns:
        Probabilities `[B, H, R, V]`, float32 whatever the inputs are.

    Source: SparseVLM 3.3; the authors' code materialises the map of all rows instead.
    """
    B, H, R, D = query.shape
    G, num_keys = key.shape[1], key.shape[2]
    V = visual_index.shape[1]
    # Heads that share a key head become rows of one product: keys are not repeated.
    grouped = query.float().reshape(B, G, (H // G) * R, D)
    logits = grouped @ key.float().transpose(2, 3) * scale  # [B, G, H/G*R, L]
    logits = logits.reshape(B, H, R, num_keys) + mask.float()
    probabilities = torch.softmax(logits, dim=-1)  # [B, H, R, L]
    columns = visual_index[:, None, None, :].expand(B, H, R, V)
    return torch.gather(probabilities, 3, columns)


def visual_scores(attention: Tensor, weights: Tensor) -> Tensor:
    """Average the raters' attention over heads and raters.

    Args:
        attention: `[B, H, R, V]`, float32.
        weights: `[B, R]`, float32: 1 for a rater, 0 for padding; each row has a positive sum.

    Returns:
        `[B, V]`, float32.

    Source: SparseVLM 3.3, equation 7.
    """
    per_rater = attention.mean(dim=1)  # [B, R, V]
    weighted = (per_rater * weights[:, :, None]).sum(dim=1)  # [B, V]
    return weighted / weights.sum(dim=1, keepdim=True)
