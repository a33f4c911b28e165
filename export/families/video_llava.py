"""Video-LLaVA: images as LLaVA 1.5; the frames of videos through a tower of their own.

Source: `VideoLlavaForConditionalGeneration` of transformers.
"""

from __future__ import annotations

import torch
from transformers import VideoLlavaForConditionalGeneration

from sparsevlm_trt.export.checkpoint import Checkpoint
from sparsevlm_trt.export.crop_tower import CropTower, crop_graph, crop_spec
from sparsevlm_trt.export.families.family import Family
from sparsevlm_trt.export.language_graphs import LanguageGraphs
from sparsevlm_trt.export.vision_parts import check_finite, load_vision_parts

__all__ = ["open_family"]

_PARTS = ("image_tower", "video_tower", "multi_modal_projector")


def open_family(checkpoint: Checkpoint, dtype: torch.dtype) -> Family:
    """Take a `VideoLlavaForConditionalGeneration` checkpoint apart.

    Raises:
        ExportError: An option of the vision side that this family does not have.
    """
    config = checkpoint.config
    language = LanguageGraphs(checkpoint, config.text_config, dtype)
    patches = crop_spec(config).num_positions
    # Frames keep their class token, images do not.
    spec = crop_spec(
        config, settings={"frame_tokens": patches}, video_token_id=config.video_token_id
    )
    model = load_vision_parts(checkpoint, VideoLlavaForConditionalGeneration, _PARTS, dtype)
    images = CropTower(model, dtype, tower="image_tower")
    frames = CropTower(model, dtype, tower="video_tower")
    frames.first_patch = 0
    for tower in (images, frames):
        check_finite(checkpoint, tower, dtype)
    video = crop_graph(frames, spec, name="video")
    return Family(config.model_type, language, crop_graph(images, spec), spec, video)
