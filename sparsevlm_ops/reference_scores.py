"""Who rates and how, in the reference in plain PyTorch: written out where a graph looks up."""

from typing import Any

import torch
from torch import Tensor

from sparsevlm_ops.gravity import gravity_weights
from sparsevlm_ops.heads import count_heads
from sparsevlm_ops.methods import Judge
from sparsevlm_ops.raters import rater_mask, rater_scores

# Above any score: attention is a probability, and no correction of it comes near.
WORD_SCORE = 1e6


def find_voters(
    inputs_embeds: Tensor, prefix_length: int, num_visual: int, words: Tensor, judge: Judge
) -> tuple[Tensor, Tensor]:
    """Find the rows that vote by attention, and the scores that chose them.

    Args:
        inputs_embeds: The prompt, `[1, S, N]`.
        prefix_length: P.
        num_visual: V.
        words: Tokens of the visual block that are words, counted in it.
        judge: Who decides.

    Returns:
        Rows counted from the first text token after the image, `[R]`, -1 for the image's last
        token; and `[T]` scores of all text tokens, empty where nobody was chosen by them.
    """
    after, length = prefix_length + num_visual, inputs_embeds.shape[1]
    nothing = inputs_embeds.new_zeros(0)
    if judge not in ("raters", "last_token") or not num_visual:
        return nothing.to(torch.int64), nothing
    if judge == "last_token" or after == length:
        # A prompt that ends with its image is rated by its last token too: the row that the answer
        # is made from.
        return torch.tensor([length - after - 1], device=inputs_embeds.device), nothing
    is_visual = torch.ones(num_visual, dtype=torch.bool, device=words.device)
    is_visual[words] = False
    visual = inputs_embeds[:, prefix_length:after][:, is_visual]
    scores = rater_scores(visual, inputs_embeds[:, after:])
    return rater_mask(scores)[0].nonzero()[:, 0], scores[0]


def looking_heads(
    decoder: Any, rows: Tensor, at_voters: Tensor, at_visual: Tensor, num_heads: int | float
) -> Tensor:
    """Divide attention `[H, R, V]` by what rotation favours, and take the heads that look most."""
    inv_freq = decoder.rotary_emb.inv_freq.double()
    head_dim = decoder.layers[0].self_attn.head_dim
    table = gravity_weights(inv_freq, head_dim, decoder.config.max_position_embeddings)
    distance = (at_voters[:, None] - at_visual[None, :]).abs().clamp(max=len(table) - 1)
    # Written out per pair, where the graph looks it up: the sum over a unit vector's rotations.
    turned = torch.cos(distance[..., None].double() * inv_freq).sum(dim=-1)
    favour = (2 * turned + head_dim - 2 * len(inv_freq)) / head_dim**0.5
    corrected = rows.double() / favour
    looking = corrected.sum(dim=(1, 2)).argsort(descending=True, stable=True)
    chosen: Tensor = corrected[looking[: count_heads(num_heads, len(rows))]]
    return chosen.float()


def above_all(scores: Tensor, words: Tensor, num_visual: int) -> Tensor:
    """Lift words above visual tokens, `[1, V]`; scores may be those of visual tokens alone."""
    if not len(words):
        return scores
    lifted = scores.new_full((1, num_visual), WORD_SCORE)
    is_visual = torch.ones(num_visual, dtype=torch.bool, device=words.device)
    is_visual[words] = False
    lifted[:, is_visual] = scores if scores.shape[1] < num_visual else scores[:, is_visual]
    return lifted
