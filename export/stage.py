"""A pruning stage as a module: a run of decoder layers, and what the last one's tokens ask.

Dims: B batch, S new tokens, L cache length, H heads, G kv heads, D head size, N hidden size.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from sparsevlm_trt.export.decoder_config import DecoderConfig
from sparsevlm_trt.export.decoder_layer import DecoderLayer
from sparsevlm_trt.export.residual import ResidualEntry

__all__ = ["Stage", "causal_mask"]


class Stage(nn.Module):
    """Decoder layers `[first, stop)`; the last one's queries and keys if a boundary follows."""

    def __init__(
        self,
        config: DecoderConfig,
        layers: range,
        rotary: tuple[Tensor, float],
        dtype: torch.dtype,
        shows: bool,
    ) -> None:
        """Make the layers, named by their number in the model.

        Args:
            config: The decoder's shape.
            layers: Layer numbers of this stage.
            rotary: Inverse frequencies `[D/2]` and the scale of cos and sin.
            dtype: Model type.
            shows: Whether queries and keys of the last layer are outputs: a boundary follows.
        """
        super().__init__()
        self.config, self.dtype, self.shows = config, dtype, shows
        self.layers = nn.ModuleDict({str(i): DecoderLayer(config, dtype) for i in layers})
        # Hidden states of later stages are scaled already.
        self.entry = ResidualEntry(config.residual_scale if layers.start == 0 else 1.0)
        self.inv_freq: Tensor
        self.register_buffer("inv_freq", rotary[0], persistent=False)
        self.rotary_scale = rotary[1]
        if config.position_axes is not None:
            self.position_axes: Tensor
            axes = torch.tensor(config.position_axes)
            self.register_buffer("position_axes", axes, persistent=False)

    def forward(
        self,
        hidden_states: Tensor,
        position_ids: Tensor,
        past_lengths: Tensor,
        past_key_values: list[Tensor],
    ) -> tuple[Tensor, ...]:
        """Run the stage on new tokens.

        Args:
            hidden_states: `[B, S, N]`; from the second stage on times the residual scale.
            position_ids: `[B, S]`, or `[B, S, 3]` where a token has three, int64.
            past_lengths: Valid cache entries of each row, `[B]`, int64.
            past_key_values: Key, value of each layer in turn, `[B, L, G*D]`.

        Returns:
            Hidden states `[B, S, N]`, times the residual scale; when `shows`, the last layer's
            queries `[B, S, H*D]` and new keys `[B, S, G*D]`, rotary applied; then the new key and
            value of each layer, `[B, S, G*D]`.
        """
        return self.run(hidden_states, position_ids, past_lengths, past_key_values)

    def run(
        self,
        hidden_states: Tensor,
        position_ids: Tensor,
        past_lengths: Tensor,
        past_key_values: list[Tensor],
        added: Sequence[Tensor] = (),
    ) -> tuple[Tensor, ...]:
        """Run the stage, see `forward`; `added` are `[B, S, N]` for the first layers' outputs."""
        num_past = past_key_values[0].shape[1]
        mask = causal_mask(hidden_states.shape[1], num_past, past_lengths, self.dtype)
        rotary = self._rotary(position_ids)
        hidden, new = self.entry(hidden_states), []
        query = new_key = hidden_states
        for i, layer in enumerate(self.layers.values()):
            past = past_key_values[2 * i : 2 * i + 2]
            hidden, new_key, new_value, query = layer(hidden, rotary, mask, past)
            if i < len(added):
                hidden = hidden + added[i]
            new += [new_key, new_value]
        # A copy: an engine that keeps its caches itself gives the new keys here alone.
        shown = (query, new_key.clone()) if self.shows else ()
        return (hidden, *shown, *new)

    def _rotary(self, position_ids: Tensor) -> tuple[Tensor, Tensor]:
        if self.config.position_axes is None:
            position_ids = position_ids[..., None]
        else:
            position_ids = torch.index_select(position_ids, 2, self.position_axes)
        angles = position_ids.to(torch.float32) * self.inv_freq  # [B, S, D/2]
        cos, sin = angles.cos() * self.rotary_scale, angles.sin() * self.rotary_scale
        return cos.to(self.dtype), sin.to(self.dtype)


def causal_mask(num_new: int, num_past: int, past_lengths: Tensor, dtype: torch.dtype) -> Tensor:
    """Additive mask of new tokens over a cache and themselves.

    Args:
        num_new: S, new tokens.
        num_past: L, cache columns.
        past_lengths: Valid cache columns of each row, `[B]`, int64; the rest is hidden.
        dtype: Model type.

    Returns:
        `[B, 1, S, L+S]`: 0 where a token may look, the type's minimum elsewhere.
    """
    column = torch.arange(num_past + num_new)[None, None, None, :]
    row = torch.arange(num_new)[None, None, :, None]
    in_past = column < past_lengths[:, None, None, None]
    in_new = (column >= num_past) & (column - num_past <= row)
    seen = in_past | in_new
    return torch.where(seen, 0.0, torch.finfo(dtype).min).to(dtype)
