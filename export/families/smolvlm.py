"""SmolVLM: an image is split into tiles, a video into frames; pixel shuffle merges their tokens.

Source: `SmolVLMForConditionalGeneration` of transformers.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import SmolVLMForConditionalGeneration
from transformers.models.smolvlm.processing_smolvlm import DEFAULT_CHAT_TEMPLATE

from sparsevlm_trt.export.checkpoint import Checkpoint
from sparsevlm_trt.export.crop_tower import crop_graph
from sparsevlm_trt.export.families.family import Family
from sparsevlm_trt.export.language_graphs import LanguageGraphs
from sparsevlm_trt.export.vision_parts import check_finite, load_vision_parts
from sparsevlm_trt.export.vocabulary import named_id, text_id
from sparsevlm_trt.runtime.model_spec import VisionSpec

__all__ = ["open_family"]

_PARTS = ("vision_model", "connector")


def open_family(checkpoint: Checkpoint, dtype: torch.dtype) -> Family:
    """Take a `SmolVLMForConditionalGeneration` checkpoint apart.

    Raises:
        ExportError: The vision side or the tokenizer is not this family's.
    """
    config, vision = checkpoint.config, checkpoint.config.vision_config
    language = LanguageGraphs(checkpoint, config.text_config, dtype)
    patches = vision.image_size // vision.patch_size
    side = patches // config.scale_factor
    video = named_id(checkpoint.path, "video_token")
    spec = VisionSpec(
        num_visual=side**2,
        grid=(side, side),
        image_size=(vision.image_size, vision.image_size),
        image_token_id=config.image_token_id,
        hidden_size=vision.hidden_size,
        intermediate_size=vision.intermediate_size,
        num_layers=vision.num_hidden_layers,
        num_positions=patches**2,
        layout="split",
        settings={
            "border_token": text_id(checkpoint.path, "<fake_token_around_image>"),
            "whole_token": text_id(checkpoint.path, "<global-img>"),
            "has_video_mark": int(video is None),
        },
        video_token_id=video,
    )
    model = load_vision_parts(checkpoint, SmolVLMForConditionalGeneration, _PARTS, dtype)
    tower = _SplitTower(model.model, patches, dtype)
    check_finite(checkpoint, tower, dtype)
    # transformers takes this one as soon as there is a video, whatever the checkpoint has.
    template = DEFAULT_CHAT_TEMPLATE
    graph = crop_graph(tower, spec)
    return Family(config.model_type, language, graph, spec, video_template=template)


class _SplitTower(nn.Module):
    """The tower on whole tiles: none has padding, so every patch has its own position."""

    def __init__(self, model: Any, side: int, dtype: torch.dtype) -> None:
        super().__init__()
        self.vision, self.connector, self.dtype = model.vision_model, model.connector, dtype
        # As the model finds them, roundings included: by where a patch begins, as a share.
        shares = (torch.arange(side, dtype=torch.float32) * (1.0 / side)).clamp(max=1.0 - 1e-6)
        places = torch.bucketize(shares, torch.arange(1 / side, 1.0, 1 / side), right=True)
        self.positions: Tensor
        numbers = (places[:, None] * side + places).flatten()
        self.register_buffer("positions", numbers, persistent=False)

    def forward(self, pixel_values: Tensor) -> Tensor:
        """`[I, 3, h, w]` float32 to `[I, V, N]` of the model's type."""
        embeddings = self.vision.embeddings
        patches = embeddings.patch_embedding(pixel_values.to(self.dtype)).flatten(2)
        hidden = patches.transpose(1, 2) + embeddings.position_embedding(self.positions)
        hidden = self.vision.encoder(inputs_embeds=hidden, attention_mask=None).last_hidden_state
        features: Tensor = self.connector(self.vision.post_layernorm(hidden))
        return features
