"""One decoder layer as stage graphs see it: explicit cache, ONNX-native attention.

Weights lie as `[in, out]`, the way a MatMul reads them, so that no graph transposes a weight
and no exporter folds one. Dims: B batch, S new tokens, L cache length, H heads, G kv heads,
D head size, N hidden size.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sparsevlm_trt.export.decoder_config import DecoderConfig

__all__ = ["DecoderLayer", "Norm", "Projection"]


class Projection(nn.Module):
    """A linear layer whose weight is stored `[in, out]`, or several with one input as one.

    Attributes:
        parts: Names of the checkpoint's layers whose outputs lie side by side in this one's;
            empty for a layer of its own name.
    """

    def __init__(
        self,
        num_in: int,
        num_out: int,
        bias: bool,
        dtype: torch.dtype,
        parts: tuple[str, ...] = (),
    ) -> None:
        """Make an unfilled layer on the meta device."""
        super().__init__()
        self.parts = parts
        self.weight = nn.Parameter(torch.empty(num_in, num_out, dtype=dtype, device="meta"))
        self.bias = (
            nn.Parameter(torch.empty(num_out, dtype=dtype, device="meta")) if bias else None
        )

    def forward(self, hidden: Tensor) -> Tensor:
        """`[B, S, in]` to `[B, S, out]`."""
        projected = hidden @ self.weight
        return projected if self.bias is None else projected + self.bias


class Norm(nn.Module):
    """RMS norm over the last axis, computed in float32."""

    def __init__(self, config: DecoderConfig, dtype: torch.dtype, size: int | None = None) -> None:
        """Make an unfilled norm on the meta device, of the residual stream or of another size."""
        super().__init__()
        width = config.hidden_size if size is None else size
        self.weight = nn.Parameter(torch.empty(width, dtype=dtype, device="meta"))
        # The residual stream is kept times s; heads read what was normed before.
        scale = config.residual_scale if size is None else 1.0
        self.eps = config.norm_eps * scale**2

    def forward(self, hidden: Tensor) -> Tensor:
        """`[..., N]` to `[..., N]`."""
        return F.rms_norm(hidden, self.weight.shape, self.weight, self.eps)


class Attention(nn.Module):
    """Grouped-query attention over a cache followed by the new tokens."""

    def __init__(self, config: DecoderConfig, dtype: torch.dtype) -> None:
        """Make the projections: queries, keys and values are one product, split afterwards."""
        super().__init__()
        self.num_heads, self.num_kv_heads = config.num_heads, config.num_kv_heads
        query_size = config.num_heads * config.head_dim
        kv_size = config.num_kv_heads * config.head_dim
        self.sizes = [query_size, kv_size, kv_size]
        parts = ("q_proj", "k_proj", "v_proj")
        self.qkv_proj = Projection(
            config.hidden_size, sum(self.sizes), config.qkv_bias, dtype, parts
        )
        self.o_proj = Projection(query_size, config.hidden_size, config.output_bias, dtype)
        if config.head_norm:
            self.q_norm = Norm(config, dtype, config.head_dim)
            self.k_norm = Norm(config, dtype, config.head_dim)
        self.head_norm = config.head_norm

    def forward(
        self, hidden: Tensor, rotary: tuple[Tensor, Tensor], mask: Tensor, past: list[Tensor]
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Attend.

        Args:
            hidden: `[B, S, N]`.
            rotary: cos and sin, `[B, S, D/2]`.
            mask: Additive, `[B, 1, S, L+S]`.
            past: Cached key and value, `[B, L, G*D]` each.

        Returns:
            Output `[B, S, N]`, new key and value `[B, S, G*D]`, and queries `[B, S, H*D]`; rotary
            is applied to keys and queries.
        """
        cos, sin = rotary
        query, new_key, new_value = self.qkv_proj(hidden).split(self.sizes, dim=-1)
        if self.head_norm:
            query = self.q_norm(query.unflatten(2, (self.num_heads, -1))).flatten(2)
            new_key = self.k_norm(new_key.unflatten(2, (self.num_kv_heads, -1))).flatten(2)
        query = torch.onnx.ops.rotary_embedding(query, cos, sin, num_heads=self.num_heads)
        new_key = torch.onnx.ops.rotary_embedding(new_key, cos, sin, num_heads=self.num_kv_heads)
        keys = torch.cat([past[0], new_key], dim=1)  # [B, L+S, G*D]
        values = torch.cat([past[1], new_value], dim=1)
        attended = torch.onnx.ops.attention(
            query,
            keys,
            values,
            mask,
            q_num_heads=self.num_heads,
            kv_num_heads=self.num_kv_heads,
        )[0]
        return self.o_proj(attended), new_key, new_value, query


class GatedMlp(nn.Module):
    """`down(act(gate(x)) * up(x))`."""

    def __init__(self, config: DecoderConfig, dtype: torch.dtype) -> None:
        """Make the three projections."""
        super().__init__()
        hidden, inner, bias = config.hidden_size, config.intermediate_size, config.mlp_bias
        # Two products: as one, its halves would be copied apart (docs/decisions/005).
        self.gate_proj = Projection(hidden, inner, bias, dtype)
        self.up_proj = Projection(hidden, inner, bias, dtype)
        self.down_proj = Projection(inner, hidden, bias, dtype)
        self.activation = config.activation

    def forward(self, hidden: Tensor) -> Tensor:
        """`[B, S, N]` to `[B, S, N]`."""
        gate = self.gate_proj(hidden)
        if self.activation == "silu":
            gate = F.silu(gate)
        else:
            gate = F.gelu(gate, approximate="tanh" if self.activation == "gelu_tanh" else "none")
        down: Tensor = self.down_proj(gate * self.up_proj(hidden))
        return down


class DecoderLayer(nn.Module):
    """One pre-norm decoder layer."""

    def __init__(self, config: DecoderConfig, dtype: torch.dtype) -> None:
        """Make the layer; its parameter names are Hugging Face's, but for `Projection.parts`."""
        super().__init__()
        self.input_layernorm = Norm(config, dtype)
        self.self_attn = Attention(config, dtype)
        self.post_attention_layernorm = Norm(config, dtype)
        self.mlp = GatedMlp(config, dtype)

    def forward(
        self, hidden: Tensor, rotary: tuple[Tensor, Tensor], mask: Tensor, past: list[Tensor]
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Attention and MLP, both residual; returns what `Attention.forward` does."""
        attended, new_key, new_value, query = self.self_attn(
            self.input_layernorm(hidden), rotary, mask, past
        )
        hidden = hidden + attended
        hidden = hidden + self.mlp(self.post_attention_layernorm(hidden))
        return hidden, new_key, new_value, query
