"""The graphs that decide, as modules: raters, rank, gravity and prune steps.

Each wraps ops of `sparsevlm_ops`, which say what shapes go in and out.
"""

from __future__ import annotations

from torch import Tensor, nn

from sparsevlm_ops.gravity import gravity_scores, read_heads
from sparsevlm_ops.prune import Pruned
from sparsevlm_ops.rank import rater_rank
from sparsevlm_ops.raters import rater_mask, rater_scores
from sparsevlm_ops.steps import PruneStep

__all__ = ["Gravity", "Prune", "Rank", "Raters"]


class Raters(nn.Module):
    """Which text tokens judge."""

    def forward(self, visual_embeds: Tensor, text_embeds: Tensor) -> tuple[Tensor, Tensor]:
        """Scores of the text tokens `[B, T]`, and who of them judges; see `rater_scores`."""
        scores = rater_scores(visual_embeds, text_embeds)
        return scores, rater_mask(scores)


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
