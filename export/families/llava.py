"""LLaVA 1.5 and its look-alikes: one image is a fixed block of visual tokens.

Source: `LlavaForConditionalGeneration` of transformers; weights of LLaVA-1.5 and the demo VLM.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from transformers import LlavaConfig, LlavaForConditionalGeneration
from transformers.utils import logging

from sparsevlm_trt.export.checkpoint import Checkpoint
from sparsevlm_trt.export.families.family import Family
from sparsevlm_trt.export.graph_module import GraphModule
from sparsevlm_trt.export.language_graphs import LanguageGraphs
from sparsevlm_trt.runtime.errors import ExportError
from sparsevlm_trt.runtime.manifest import VisionSpec

__all__ = ["open_family"]

_PARTS = ("vision_tower", "multi_modal_projector")
_WITHOUT_CLASS_TOKEN = ("siglip_vision_model",)
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
            module=_load_tower(checkpoint, dtype),
            inputs={"pixel_values": torch.zeros(_NUM_IMAGES, 3, rows, columns)},
            dynamic={"pixel_values": {0: "num_images"}},
            outputs=("image_features",),
            output_axes={"image_features": {0: "num_images"}},
        ),
        vision_spec=spec,
    )


class _VisionTower(nn.Module):
    """Vision tower, feature selection and projector, weights in memory (it is small)."""

    def __init__(self, model: LlavaForConditionalGeneration, dtype: torch.dtype) -> None:
        super().__init__()
        config = model.config
        self.tower = model.model.vision_tower
        self.projector = model.model.multi_modal_projector
        layer = config.vision_feature_layer
        self.feature_layers = [layer] if isinstance(layer, int) else list(layer)
        # Strategy "default" drops the class token, which comes first.
        self.first_patch = 1 if config.vision_feature_select_strategy == "default" else 0
        self.dtype = dtype

    def forward(self, pixel_values: Tensor) -> Tensor:
        """`[I, 3, h, w]` float32 to `[I, V, N]` of the model's type."""
        states = self.tower(pixel_values.to(self.dtype), output_hidden_states=True).hidden_states
        chosen = [states[layer][:, self.first_patch :] for layer in self.feature_layers]
        features: Tensor = self.projector(torch.cat(chosen, dim=-1))
        return features


def _load_tower(checkpoint: Checkpoint, dtype: torch.dtype) -> _VisionTower:
    """Let transformers load the vision side: it knows every name a tower ever had."""
    config = copy.deepcopy(checkpoint.config)
    # The language model shrinks to nothing; its weights are ours to read, one by one.
    config.text_config.num_hidden_layers = 0
    config.text_config.vocab_size = config.text_config.intermediate_size = 1
    config.text_config.pad_token_id = config.text_config.layer_types = None
    weights = {name: value for part in _PARTS for name, value in checkpoint.tensors(part).items()}
    with _silence():
        model, report = LlavaForConditionalGeneration.from_pretrained(
            None,
            config=config,
            state_dict=weights,
            dtype=dtype,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # we tell of them ourselves
        )
    absent = [n for n in sorted(report["missing_keys"]) if any(part in n for part in _PARTS)]
    problems = [f"no tensor {name}" for name in absent]
    problems += [f"{name} is {list(got)}" for name, got, _ in sorted(report["mismatched_keys"])]
    if problems:
        raise ExportError(
            f"checkpoint {checkpoint.path} | {'; '.join(problems)} "
            "| expected the vision tower of config.json | the config does not fit the weights"
        )
    tower = _VisionTower(model, dtype).eval()
    lost = [n for n, p in tower.named_parameters() if not bool(torch.isfinite(p).all())]
    if lost:
        raise ExportError(
            f"checkpoint {checkpoint.path} | {', '.join(lost)} not finite as {dtype} "
            "| expected numbers within its range | export with --dtype float32"
        )
    return tower


@contextmanager
def _silence() -> Iterator[None]:
    """Keep transformers' load report, which mourns the language model, off the terminal."""
    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity(logging.CRITICAL)
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()


def _vision_spec(config: LlavaConfig) -> VisionSpec:
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
    )


def _intermediate_size(vision: object) -> int:
    stated = getattr(vision, "intermediate_size", None)
    if stated:
        return int(stated)
    return int(vision.hidden_size * vision.mlp_ratio)  # type: ignore[attr-defined]
