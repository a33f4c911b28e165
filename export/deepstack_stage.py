"""The first stage of a model whose vision tower feeds its first layers too (Qwen3-VL).

Dims: B batch, S new tokens, N hidden size, k layers that are fed.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sparsevlm_trt.export.stage import Stage

__all__ = ["DeepstackStage"]


class DeepstackStage(Stage):
    """Decoder layers from 0 on; features are added to the outputs of the first k.

    A prune step after the stage acts on the sums, so that no later stage knows of the features.
    Source: DeepStack (arXiv 2406.04334); `Qwen3VLTextModel` of transformers.
    """

    def forward(  # type: ignore[override]
        self,
        deepstack_features: Tensor,
        hidden_states: Tensor,
        position_ids: Tensor,
        past_lengths: Tensor,
        past_key_values: list[Tensor],
    ) -> tuple[Tensor, ...]:
        """Run the stage on new tokens.

        Args:
            deepstack_features: What is added, `[B, S, k*N]`, the layers' side by side; zeros
                where a token is no visual one.
            hidden_states: This and the rest as `Stage.forward` has them, and what it returns.
            position_ids: See there.
            past_lengths: See there.
            past_key_values: See there.
        """
        added = torch.split(self.entry(deepstack_features), hidden_states.shape[2], dim=2)
        return self.run(hidden_states, position_ids, past_lengths, past_key_values, added)
