"""Which text tokens judge the visual ones."""

import torch
from torch import Tensor


def rater_scores(visual_embeds: Tensor, text_embeds: Tensor) -> Tensor:
    """Measure how much the visual tokens attend to each text token.

    Each visual token spreads a softmax over the text by raw dot product: no norm, no scale, no
    position. The score of a text token is its mean share.

    Args:
        visual_embeds: Input embeddings of the visual tokens, `[B, V, N]`.
        text_embeds: Input embeddings of the text after them, `[B, T, N]`.

    Returns:
        `[B, T]`, float32; each row sums to 1.

    Source: SparseVLM 3.2; the authors' code, v1.5, once per prompt before the first layer.
    """
    similarity = visual_embeds.float() @ text_embeds.float().transpose(1, 2)  # [B, V, T]
    return torch.softmax(similarity, dim=-1).mean(dim=1)


def rater_mask(scores: Tensor) -> Tensor:
    """Choose as raters the text tokens that score strictly above the mean.

    Where none does (one text token, or equal scores) all of them vote: the authors' code would
    average over nothing.

    Args:
        scores: `[B, T]` of `rater_scores`.

    Returns:
        `[B, T]`, bool; every row has at least one True.

    Source: SparseVLM 3.2, equation 5.
    """
    above = scores > scores.mean(dim=-1, keepdim=True)
    num_above = above.to(torch.int64).sum(dim=-1, keepdim=True)  # [B, 1]
    return above | (num_above == 0)
