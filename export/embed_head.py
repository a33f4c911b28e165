"""Both ends of the language model: token embedding, and the head on the last position."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sparsevlm_trt.export.decoder_config import DecoderConfig
from sparsevlm_trt.export.decoder_layer import Norm

__all__ = ["Embed", "Head"]


class Embed(nn.Module):
    """Token ids to embeddings."""

    def __init__(self, config: DecoderConfig, dtype: torch.dtype) -> None:
        """Make an unfilled table `[vocab, N]`."""
        super().__init__()
        shape = (config.vocab_size, config.hidden_size)
        self.weight = nn.Parameter(torch.empty(*shape, dtype=dtype, device="meta"))

    def forward(self, input_ids: Tensor) -> Tensor:
        """`[B, S]` int64 to `[B, S, N]`."""
        return F.embedding(input_ids, self.weight)


class Head(nn.Module):
    """Final norm and output head, on the last position only."""

    def __init__(self, config: DecoderConfig, dtype: torch.dtype) -> None:
        """Make an unfilled head; its weight lies `[vocab, N]`, as the embedding's does."""
        super().__init__()
        self.norm = Norm(config, dtype)
        shape = (config.vocab_size, config.hidden_size)
        self.weight = nn.Parameter(torch.empty(*shape, dtype=dtype, device="meta"))

    def forward(self, hidden_states: Tensor) -> Tensor:
        """`[B, N]` to logits `[B, vocab]`, float32.

        The small operand is transposed, not the weight: a tied head then reads the embedding's
        own bytes.
        """
        logits = self.weight @ self.norm(hidden_states).transpose(0, 1)  # [vocab, B]
        last: Tensor = logits.transpose(0, 1).to(torch.float32)
        return last
