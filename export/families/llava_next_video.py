"""LLaVA-NeXT-Video: images as LLaVA-NeXT; frames pooled before the projector.

Source: `LlavaNextVideoForConditionalGeneration` of transformers.
"""

from __future__ import annotations

import torch
from transformers import LlavaNextVideoForConditionalGeneration

from sparsevlm_trt.export.checkpoint import Checkpoint
from sparsevlm_trt.export.crop_tower import CropTower, crop_graph, crop_spec
from sparsevlm_trt.export.families.family import Family
from sparsevlm_trt.export.language_graphs import LanguageGraphs
from sparsevlm_trt.export.vision_parts import check_finite, load_vision_parts

__all__ = ["open_family"]

_PARTS = ("vision_tower", "multi_modal_projector", "image_newline", "vision_resampler")


def open_family(checkpoint: Checkpoint, dtype: torch.dtype) -> Family:
    """Take a `LlavaNextVideoForConditionalGeneration` checkpoint apart.

    Raises:
        ExportError: An option of the vision side that this family does not have.
    """
    config = checkpoint.config
    language = LanguageGraphs(checkpoint, config.text_config, dtype)
    rows, columns = crop_spec(config).grid
    stride = config.spatial_pool_stride
    spec = crop_spec(
        config,
        layout="anyres",
        resolutions=tuple((rows, columns) for rows, columns in config.image_grid_pinpoints),
        settings={"frame_tokens": (rows // stride) * (columns // stride)},
        video_token_id=config.video_token_id,
    )
    model = load_vision_parts(checkpoint, LlavaNextVideoForConditionalGeneration, _PARTS, dtype)
    images, frames = CropTower(model, dtype), CropTower(model, dtype)
    frames.pooler, frames.newline = model.model.vision_resampler, None
    for tower in (images, frames):
        check_finite(checkpoint, tower, dtype)
    video = crop_graph(frames, spec, name="video")
    return Family(config.model_type, language, crop_graph(images, spec), spec, video)
