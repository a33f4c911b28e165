"""A tiny LLaVA that float16 cannot hold: one token's hidden states and one place of its tower.

As in real models, few tokens are enormous: the prompt's first letter in the language model, the
class token in the tower. All others are ordinary, so that answers stay comparable.
"""

from __future__ import annotations

from pathlib import Path

import torch
from tiny_checkpoints import save_llava
from transformers import LlavaForConditionalGeneration

FIRST_LETTER = ord("U") - ord("!")  # of "USER:", as byte-level alphabets are sorted


def save_overflowing(folder: Path, *, language: bool = True, tower: bool = True) -> Path:
    """Save it, overflowing in its language model, in its tower, or in both."""
    save_llava(folder, "llama")
    model = LlavaForConditionalGeneration.from_pretrained(folder)
    with torch.no_grad():
        if language:
            _swell_language(model)
        if tower:
            _swell_tower(model)
    model.save_pretrained(folder)
    return folder


def _swell_language(model: LlavaForConditionalGeneration) -> None:
    """Channel 0 marks the letter; the first MLP turns the mark into 1e5, and that into 4e5."""
    decoder, projector = model.model.language_model, model.model.multi_modal_projector
    decoder.embed_tokens.weight[:, 0] = 0
    decoder.embed_tokens.weight[FIRST_LETTER, 0] = 50
    projector.linear_2.weight[0] = 0
    projector.linear_2.bias[0] = 0
    layer = decoder.layers[0]
    layer.self_attn.o_proj.weight[0] = 0
    for projection in (layer.mlp.gate_proj, layer.mlp.up_proj):
        projection.weight[0] = 0
        projection.weight[0, 0] = 40
    layer.mlp.down_proj.weight[1, 0] = 4


def _swell_tower(model: LlavaForConditionalGeneration) -> None:
    """Channel 0 marks the class token; the first MLP makes 9e4 of the mark, and of that 3e5."""
    tower = model.model.vision_tower
    tower = getattr(tower, "vision_model", tower)
    tower.embeddings.class_embedding[:] = 0
    tower.embeddings.class_embedding[0] = 50
    tower.embeddings.patch_embedding.weight[0] = 0
    tower.embeddings.position_embedding.weight[:, 0] = 0
    layer = tower.encoder.layers[0]
    layer.self_attn.out_proj.weight[0] = 0
    layer.self_attn.out_proj.bias[0] = 0
    layer.mlp.fc1.weight[0] = 0
    layer.mlp.fc1.weight[0, 0] = 16000
    layer.mlp.fc1.bias[0] = -40000
    layer.mlp.fc2.weight[1, 0] = 4
