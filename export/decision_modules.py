"""The graphs that decide, as modules: raters, their rows, rank, gravity and prune steps.

Each wraps ops of `sparsevlm_ops`, which say what shapes go in and out.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sparsevlm_ops.gravity import gravity_scores, read_heads
from sparsevlm_ops.prune import Pruned, take_rows
from sparsevlm_ops.rank import rater_rank
from sparsevlm_ops.raters import rater_mask, rater_scores
from sparsevlm_ops.scoring import rater_attention
from sparsevlm_ops.steps import PruneStep

__all__ = ["Gravity", "Prune", "Rank", "RaterRows", "Raters"]


class Raters(nn.Module):
    """Which text tokens judge."""

    def forward(self, visual_embeds: Tensor, text_embeds: Tensor) -> tuple[Tensor, Tensor]:
        """Scores of the text tokens `[B, T]`, and who of them judges; see `rater_scores`."""
        scores = rater_scores(visual_embeds, text_embeds)
        return scores, rater_mask(scores)


class RaterRows(nn.Module):
    """What the raters see: their rows of the attention of a stage's last layer."""

    def __init__(self, num_heads: int, num_kv_heads: int) -> None:
        """Take the numbers of query heads and of key heads."""
        super().__init__()
        self.num_heads, self.num_kv_heads = num_heads, num_kv_heads

    def forward(
        self, queries: Tensor, keys: Tensor, rater_index: Tensor, visual_index: Tensor
    ) -> Tensor:
        """Score the visual tokens of a prompt.

        Args:
            queries: Of all its tokens, rotary applied, `[B, S, H*D]`.
            keys: Likewise, `[B, S, G*D]`; there are none before them.
            rater_index: Rows of the raters, `[B, R]`, int64.
            visual_index: Columns of the visual tokens, `[B, V]`, int64.

        Returns:
            Probabilities `[B, H, R, V]`, float32; see `rater_attention`.
        """
        batch, num_raters = rater_index.shape
        rows = take_rows(queries, rater_index).reshape(batch, num_raters, self.num_heads, -1)
        grouped = keys.reshape(batch, keys.shape[1], self.num_kv_heads, -1)
        ahead = torch.arange(keys.shape[1]) > rater_index[:, :, None]  # [B, R, S]
        mask = torch.where(ahead, torch.finfo(torch.float32).min, 0.0)
        return rater_attention(
            rows.transpose(1, 2),
            grouped.transpose(1, 2),
            mask[:, None],
            visual_index,
            scale=rows.shape[-1] ** -0.5,
        )


class Rank(nn.Module):
    """How many independent things the raters look at."""

    def forward(self, rater_attention: Tensor, rater_weights: Tensor) -> Tensor:
        """See `rater_rank`."""
        return rater_rank(rater_attention, rater_weights)


class Gravity(nn.Module):
    """Corrected scores of the best heads, as of one head and one rater."""

    def __init__(self, table: Tensor) -> None:
        """Keep the table of weights by distance."""
        super().__init__()
        self.table: Tensor
        self.register_buffer("table", table, persistent=False)

    def forward(
        self,
        rater_attention: Tensor,
        rater_weights: Tensor,
        rater_positions: Tensor,
        visual_positions: Tensor,
        num_heads: Tensor,
    ) -> Tensor:
        """Scores `[B, 1, 1, V]`; see `gravity_scores`."""
        scores = gravity_scores(
            rater_attention,
            rater_weights,
            rater_positions,
            visual_positions,
            read_heads(num_heads, rater_attention.shape[1]),
            self.table,
        )
        return scores[:, None, None]  # as of one head and one rater, which a prune step takes


class Prune(nn.Module):
    """A prune step of one method."""

    def __init__(self, step: PruneStep) -> None:
        """Take the step."""
        super().__init__()
        self._step = step

    def forward(
        self,
        hidden_states: Tensor,
        position_ids: Tensor,
        rater_attention: Tensor,
        rater_weights: Tensor,
        prefix_length: Tensor,
        num_kept: Tensor,
        original_positions: Tensor,
    ) -> Pruned:
        """See `PruneStep`."""
        return self._step(
            hidden_states,
            position_ids,
            rater_attention,
            rater_weights,
            prefix_length,
            num_kept,
            original_positions,
        )
