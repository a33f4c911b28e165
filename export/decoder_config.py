"""What a decoder is, taken from Hugging Face's config in one place."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PretrainedConfig
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from sparsevlm_trt.runtime.errors import ExportError

__all__ = ["DecoderConfig", "rotary_frequencies"]

# Decoders whose layer is exactly ours: pre-norm RMSNorm, rotary GQA attention, gated MLP.
_LLAMA_LIKE = (
    "llama",
    "mistral",
    "qwen2",
    "qwen2_5_vl_text",
    "qwen2_vl_text",
    "qwen3",
    "qwen3_vl_text",
)
# Biases on the query, key and value projections, never on the output one; not in the config.
_QKV_BIASED = ("qwen2", "qwen2_vl_text", "qwen2_5_vl_text")
# An RMS norm on each head's queries and keys before they are rotated.
_HEAD_NORMED = ("qwen3", "qwen3_vl_text")
# Its rotary axes take turns, frequency by frequency; the others' lie one after the other.
_INTERLEAVED = ("qwen3_vl_text",)
# How many frequencies each axis turns where the config does not say: transformers' own default.
_SECTIONS = {"qwen3_vl_text": [24, 20, 20]}
# Rotary types whose frequencies do not depend on the length of the sequence.
_STATIC_ROTARY = ("default", "linear", "llama3", "yarn")
_ACTIVATIONS = {"silu": "silu", "swish": "silu", "gelu": "gelu", "gelu_pytorch_tanh": "gelu_tanh"}


@dataclass(frozen=True, slots=True)
class DecoderConfig:
    """Shape of a Llama-like decoder.

    Attributes:
        model_type: Hugging Face model_type of the language model.
        num_layers: Decoder layers.
        hidden_size: N, width of the residual stream.
        intermediate_size: Width of the gated MLP.
        num_heads: H, query heads.
        num_kv_heads: G, key and value heads; H is a multiple of it.
        head_dim: D, size of one head.
        vocab_size: Rows of the embedding.
        max_position: Longest sequence the model was made for, in tokens.
        norm_eps: Epsilon of the RMS norms.
        activation: Gate activation, `silu`, `gelu` or `gelu_tanh`.
        qkv_bias: Whether the query, key and value projections have biases.
        output_bias: Whether the attention's output projection has one.
        head_norm: Whether each head's queries and keys are normed before they are rotated.
        mlp_bias: Whether the MLP projections have biases.
        tied_head: Whether the output head shares the embedding's weights.
        position_axes: Which of a token's three positions (time, row, column) turns each rotary
            frequency, `[D/2]`; None where a token has one position (M-RoPE has three).
        residual_shift: k, where hidden states between layers are kept times 2^-k; see
            `export/residual.py`.
    """

    model_type: str
    num_layers: int
    hidden_size: int
    intermediate_size: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    vocab_size: int
    max_position: int
    norm_eps: float
    activation: str
    qkv_bias: bool
    output_bias: bool
    head_norm: bool
    mlp_bias: bool
    tied_head: bool
    position_axes: tuple[int, ...] | None = None
    residual_shift: int = 0

    @property
    def residual_scale(self) -> float:
        """What hidden states between layers are kept times: 1, or a negative power of two."""
        return 2.0**-self.residual_shift

    @property
    def num_axes(self) -> int:
        """Positions of a token: 1, or 3."""
        return 1 if self.position_axes is None else 3

    @classmethod
    def from_hf(cls, config: PretrainedConfig, *, tied_head: bool | None = None) -> DecoderConfig:
        """Read a language model's config.

        Args:
            config: Text config, for example `LlamaConfig`.
            tied_head: Overrides the config's own `tie_word_embeddings` (an outer config decides
                it for a language model inside a VLM).

        Raises:
            ExportError: A model type, rotary type or activation that is not supported.
        """
        if config.model_type not in _LLAMA_LIKE:
            raise ExportError(
                f"language model | got model_type {config.model_type!r} "
                f"| expected one of {', '.join(_LLAMA_LIKE)} | use a checkpoint of these"
            )
        rotary = config.rope_parameters or {}
        if rotary.get("rope_type", "default") not in _STATIC_ROTARY:
            raise ExportError(
                f"language model | got rope_type {rotary['rope_type']!r} "
                f"| expected one of {', '.join(_STATIC_ROTARY)} "
                "| frequencies that depend on the length cannot be cached per stage"
            )
        if config.hidden_act not in _ACTIVATIONS:
            raise ExportError(
                f"language model | got hidden_act {config.hidden_act!r} "
                f"| expected one of {', '.join(_ACTIVATIONS)} | use another checkpoint"
            )
        heads = config.num_attention_heads
        kv_heads = getattr(config, "num_key_value_heads", None) or heads
        if heads % kv_heads:
            raise ExportError(
                f"language model | got {heads} heads on {kv_heads} key heads | expected a "
                "multiple | check num_key_value_heads in config.json"
            )
        # Inside its window a sliding-window layer is an ordinary causal one; beyond it is not.
        window = getattr(config, "sliding_window", None)
        longest = config.max_position_embeddings
        biased = bool(getattr(config, "attention_bias", False))
        return cls(
            model_type=config.model_type,
            num_layers=config.num_hidden_layers,
            hidden_size=config.hidden_size,
            intermediate_size=config.intermediate_size,
            num_heads=heads,
            num_kv_heads=kv_heads,
            head_dim=getattr(config, "head_dim", None) or config.hidden_size // heads,
            vocab_size=config.vocab_size,
            max_position=min(longest, window) if window else longest,
            norm_eps=config.rms_norm_eps,
            activation=_ACTIVATIONS[config.hidden_act],
            qkv_bias=biased or config.model_type in _QKV_BIASED,
            output_bias=biased,
            head_norm=config.model_type in _HEAD_NORMED,
            mlp_bias=bool(getattr(config, "mlp_bias", False)),
            tied_head=bool(config.tie_word_embeddings) if tied_head is None else tied_head,
            position_axes=_position_axes(
                config.model_type,
                rotary.get("mrope_section") or _SECTIONS.get(config.model_type),
            ),
        )


def _position_axes(model_type: str, section: list[int] | None) -> tuple[int, ...] | None:
    """Which position turns which frequency; `section` is how many each of the three turns.

    Source: Qwen2-VL 2.1 (M-RoPE); Qwen3-VL's interleaved form, `apply_interleaved_mrope`.
    """
    if section is None:
        return None
    if model_type not in _INTERLEAVED:
        return tuple(axis for axis, count in enumerate(section) for _ in range(count))
    axes = [0] * sum(section)
    for axis in (1, 2):
        for index in range(axis, min(3 * section[axis], len(axes)), 3):
            axes[index] = axis
    return tuple(axes)


def rotary_frequencies(config: PretrainedConfig) -> tuple[Tensor, float]:
    """Inverse frequencies `[D/2]`, float32, and the scale of cos and sin.

    Transformers computes them, so that every static rotary type it knows is ours too.
    """
    rotary = LlamaRotaryEmbedding(config)
    return rotary.inv_freq.to(torch.float32), float(rotary.attention_scaling)
