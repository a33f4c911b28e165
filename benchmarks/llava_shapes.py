"""Configs of LLaVA models by their published sizes, for benchmarks with random weights."""

from __future__ import annotations

from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig

__all__ = ["IMAGE_TOKEN", "llava_7b_config", "tiny_config"]

IMAGE_TOKEN = 32000


def llava_7b_config(num_layers: int = 32) -> LlavaConfig:
    """The config of llava-hf/llava-1.5-7b-hf, by its published numbers.

    Args:
        num_layers: Decoder layers; fewer leave the graphs of the first stages as they are.
    """
    return _llava_config(4096, 11008, heads=32, layers=num_layers, tower=(1024, 4096, 24, 16))


def tiny_config() -> LlavaConfig:
    """A model of that form which a rehearsal on a CPU can afford, with as many visual tokens."""
    return _llava_config(256, 512, heads=4, layers=20, tower=(64, 128, 2, 2))


def _llava_config(
    hidden: int, inner: int, heads: int, layers: int, tower: tuple[int, int, int, int]
) -> LlavaConfig:
    tower_hidden, tower_inner, tower_layers, tower_heads = tower
    vision = CLIPVisionConfig(
        hidden_size=tower_hidden,
        intermediate_size=tower_inner,
        num_hidden_layers=tower_layers,
        num_attention_heads=tower_heads,
        image_size=336,
        patch_size=14,
        projection_dim=768,
    )
    text = LlamaConfig(
        hidden_size=hidden,
        intermediate_size=inner,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        vocab_size=32064,
        max_position_embeddings=4096,
        rms_norm_eps=1e-5,
    )
    return LlavaConfig(vision_config=vision, text_config=text, image_token_index=IMAGE_TOKEN)
