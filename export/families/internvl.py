"""InternVL: an image is cut into tiles; pixel shuffle makes a quarter of the tokens.

Source: `InternVLForConditionalGeneration` of transformers.
"""

from __future__ import annotations

import torch
from transformers import InternVLForConditionalGeneration

from sparsevlm_trt.export.checkpoint import Checkpoint
from sparsevlm_trt.export.crop_tower import crop_graph
from sparsevlm_trt.export.families.family import Family
from sparsevlm_trt.export.language_graphs import LanguageGraphs
from sparsevlm_trt.export.vision_parts import FeatureModel, check_finite, load_vision_parts
from sparsevlm_trt.export.vocabulary import token_id
from sparsevlm_trt.runtime.model_spec import VisionSpec

__all__ = ["open_family"]

_PARTS = ("vision_tower", "multi_modal_projector")


def open_family(checkpoint: Checkpoint, dtype: torch.dtype) -> Family:
    """Take an `InternVLForConditionalGeneration` checkpoint apart.

    Raises:
        ExportError: The vision side or the tokenizer is not this family's.
    """
    config, vision = checkpoint.config, checkpoint.config.vision_config
    language = LanguageGraphs(checkpoint, config.text_config, dtype)
    (height, width), (patch_height, patch_width) = vision.image_size, vision.patch_size
    patches = (height // patch_height, width // patch_width)
    rows, columns = (int(side * config.downsample_ratio) for side in patches)
    spec = VisionSpec(
        num_visual=rows * columns,
        grid=(rows, columns),
        image_size=(height, width),
        image_token_id=config.image_token_id,
        hidden_size=vision.hidden_size,
        intermediate_size=vision.intermediate_size,
        num_layers=vision.num_hidden_layers,
        num_positions=patches[0] * patches[1] + 1,
        layout="tiles",
        settings={
            "start_token": token_id(checkpoint.path, "start_image_token"),
            "end_token": token_id(checkpoint.path, "end_image_token"),
        },
        video_token_id=token_id(checkpoint.path, "video_token"),
    )
    model = load_vision_parts(checkpoint, InternVLForConditionalGeneration, _PARTS, dtype)
    features = FeatureModel(model)
    check_finite(checkpoint, features, dtype)
    return Family(config.model_type, language, crop_graph(features, spec), spec)
