"""A tower that sees images, crops or frames of one size, as LLaVA and its successors have it.

Dims: I images, crops or frames, V their visual tokens, N hidden size.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import PretrainedConfig

from sparsevlm_trt.export.graph_module import GraphModule
from sparsevlm_trt.runtime.errors import ExportError
from sparsevlm_trt.runtime.model_spec import VisionSpec

__all__ = ["CropTower", "crop_graph", "crop_spec"]

_WITHOUT_CLASS_TOKEN = ("siglip_vision_model",)
_NUM_IMAGES = 2


class CropTower(nn.Module):
    """Vision tower, feature selection and projector, weights in memory (it is small)."""

    def __init__(self, model: Any, dtype: torch.dtype, tower: str = "vision_tower") -> None:
        """Take them out of a loaded model, with its newline where it has one; no pooler yet."""
        super().__init__()
        config = model.config
        self.tower = getattr(model.model, tower)
        self.projector = model.model.multi_modal_projector
        layer = config.vision_feature_layer
        self.feature_layers = [layer] if isinstance(layer, int) else list(layer)
        # Strategy "default" drops the class token, which comes first.
        self.first_patch = 1 if config.vision_feature_select_strategy == "default" else 0
        self.pooler: nn.Module | None = None
        self.newline: nn.Parameter | None = getattr(model.model, "image_newline", None)
        self.dtype = dtype

    def forward(self, pixel_values: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        """`[I, 3, h, w]` float32 to `[I, V, N]` of the model's type, and the newline `[1, N]`."""
        states = self.tower(pixel_values.to(self.dtype), output_hidden_states=True).hidden_states
        chosen = [states[layer][:, self.first_patch :] for layer in self.feature_layers]
        patches = torch.cat(chosen, dim=-1)
        if self.pooler is not None:
            patches = self.pooler(patches)
        features: Tensor = self.projector(patches)
        if self.newline is None:
            return features
        return features, self.newline[None].clone()


def crop_graph(module: nn.Module, spec: VisionSpec, name: str = "vision") -> GraphModule:
    """Make the graph of such a tower, or of another that takes the same pixels."""
    rows, columns = spec.image_size
    with_newline = ("image_newline",) if getattr(module, "newline", None) is not None else ()
    return GraphModule(
        name=name,
        module=module,
        inputs={"pixel_values": torch.zeros(_NUM_IMAGES, 3, rows, columns)},
        dynamic={"pixel_values": {0: "num_images"}},
        outputs=("image_features", *with_newline),
        output_axes={"image_features": {0: "num_images"}, **{name: {} for name in with_newline}},
    )


def crop_spec(config: PretrainedConfig, **layout: Any) -> VisionSpec:
    """Describe such a tower.

    Args:
        config: The whole model's config.
        layout: Fields of `VisionSpec` beyond the tower's own.

    Raises:
        ExportError: An option of the vision side that leaves other tokens than the patches.
    """
    vision = config.vision_config
    strategy = config.vision_feature_select_strategy
    has_class_token = vision.model_type not in _WITHOUT_CLASS_TOKEN
    if strategy != ("default" if has_class_token else "full"):
        raise ExportError(
            f"vision tower | got vision_feature_select_strategy {strategy!r} for "
            f"{vision.model_type} | expected what leaves exactly the image's patches: 'default' "
            "drops the class token, 'full' fits a tower without one | use another checkpoint"
        )
    layers, deepest = config.vision_feature_layer, vision.num_hidden_layers
    layers = [layers] if isinstance(layers, int) else layers
    if not all(-deepest - 1 <= layer <= deepest for layer in layers):
        raise ExportError(
            f"vision tower | got vision_feature_layer {config.vision_feature_layer} "
            f"| expected layers of this {deepest}-layer tower | check config.json"
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
        num_positions=rows * columns + has_class_token,
        **layout,
    )


def _intermediate_size(vision: object) -> int:
    stated = getattr(vision, "intermediate_size", None)
    if stated:
        return int(stated)
    return int(vision.hidden_size * vision.mlp_ratio)  # type: ignore[attr-defined]
