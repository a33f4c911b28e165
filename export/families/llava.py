"""LLaVA 1.5 and its look-alikes: one image is a fixed block of visual tokens.

Source: `LlavaForConditionalGeneration` of transformers; weights of LLaVA-1.5 and the demo VLM.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from transformers import AutoModel, LlavaConfig
from transformers.models.llava.modeling_llava import LlavaMultiModalProjector

from sparsevlm_trt.export.checkpoint import Checkpoint
from sparsevlm_trt.export.families.family import Family
from sparsevlm_trt.export.graph_module import GraphModule
from sparsevlm_trt.export.language_graphs import LanguageGraphs
from sparsevlm_trt.runtime.errors import ExportError
from sparsevlm_trt.runtime.manifest import VisionSpec

__all__ = ["open_family"]

# Old checkpoints wrap the tower once more (`vision_tower.vision_model.`).
_TOWER_PREFIXES = (
    "vision_tower.",
    "vision_tower.vision_model.",
    "model.vision_tower.",
    "model.vision_tower.vision_model.",
)
_PROJECTOR_PREFIXES = ("multi_modal_projector.", "model.multi_modal_projector.")
_NUM_IMAGES = 2


def open_family(checkpoint: Checkpoint, dtype: torch.dtype) -> Family:
    """Take a `LlavaForConditionalGeneration` checkpoint apart.

    Raises:
        ExportError: An option of the vision side that this family does not have.
    """
    config = checkpoint.config
    language = LanguageGraphs(checkpoint, config.text_config, dtype)
    spec = _vision_spec(config)
    rows, columns = spec.image_size
    return Family(
        model_type=config.model_type,
        language=language,
        vision=GraphModule(
            name="vision",
            module=_VisionTower.load(checkpoint, dtype),
            inputs={"pixel_values": torch.zeros(_NUM_IMAGES, 3, rows, columns)},
            dynamic={"pixel_values": {0: "num_images"}},
            outputs=("image_features",),
            output_axes={"image_features": {0: "num_images"}},
        ),
        vision_spec=spec,
    )


class _VisionTower(nn.Module):
    """Vision tower, feature selection and projector, weights in memory (it is small)."""

    def __init__(self, config: LlavaConfig, dtype: torch.dtype) -> None:
        super().__init__()
        self.tower = AutoModel.from_config(config.vision_config, attn_implementation="sdpa")
        self.projector = LlavaMultiModalProjector(config)
        layer = config.vision_feature_layer
        self.feature_layers = [layer] if isinstance(layer, int) else list(layer)
        self.drops_class_token = config.vision_feature_select_strategy == "default"
        self.dtype = dtype

    @classmethod
    def load(cls, checkpoint: Checkpoint, dtype: torch.dtype) -> _VisionTower:
        tower = cls(checkpoint.config, dtype)
        checkpoint.load_into(tower.tower, _TOWER_PREFIXES, dtype)
        checkpoint.load_into(tower.projector, _PROJECTOR_PREFIXES, dtype)
        checkpoint.release()
        return tower.eval()

    def forward(self, pixel_values: Tensor) -> Tensor:
        """`[I, 3, h, w]` float32 to `[I, V, N]` of the model's type."""
        states = self.tower(pixel_values.to(self.dtype), output_hidden_states=True).hidden_states
        chosen = [states[layer] for layer in self.feature_layers]
        if self.drops_class_token:
            chosen = [state[:, 1:] for state in chosen]
        features: Tensor = self.projector(torch.cat(chosen, dim=-1))
        return features


def _vision_spec(config: LlavaConfig) -> VisionSpec:
    vision = config.vision_config
    strategy = config.vision_feature_select_strategy
    if strategy != "default":
        raise ExportError(
            f"vision tower | got vision_feature_select_strategy {strategy!r} "
            "| expected 'default' (patches without the class token) "
            "| a kept class token has no place in the image; use another checkpoint"
        )
    size = vision.image_size
    height, width = (size, size) if isinstance(size, int) else size
    rows, columns = height // vision.patch_size, width // vision.patch_size
    return VisionSpec(
        num_visual=rows * columns,
        grid=(rows, columns),
        image_size=(height, width),
        image_token_id=config.image_token_id,
        hidden_size=vision.hidden_size,
        intermediate_size=_intermediate_size(vision),
        num_layers=vision.num_hidden_layers,
        num_positions=rows * columns + 1,
    )


def _intermediate_size(vision: object) -> int:
    stated = getattr(vision, "intermediate_size", None)
    if stated:
        return int(stated)
    return int(vision.hidden_size * vision.mlp_ratio)  # type: ignore[attr-defined]
