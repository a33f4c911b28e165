"""Qwen2-VL, 2.5-VL and 3-VL: images at their own resolution, three positions for each token.

Source: `Qwen2VLForConditionalGeneration` and its successors in transformers.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from transformers import (
    Qwen2_5_VLForConditionalGeneration,
    Qwen2VLForConditionalGeneration,
    Qwen3VLForConditionalGeneration,
)

from sparsevlm_trt.export.checkpoint import Checkpoint
from sparsevlm_trt.export.families.family import Family
from sparsevlm_trt.export.language_graphs import LanguageGraphs
from sparsevlm_trt.export.patch_tower import PatchTower, patch_graph, patch_spec
from sparsevlm_trt.export.vision_parts import check_finite, load_vision_parts

__all__ = ["open_qwen2_5_vl", "open_qwen2_vl", "open_qwen3_vl"]

_PARTS = ("visual.",)


def open_qwen2_vl(checkpoint: Checkpoint, dtype: torch.dtype) -> Family:
    """Take a `Qwen2VLForConditionalGeneration` checkpoint apart.

    Raises:
        ExportError: The vision side is not this family's.
    """
    return _open(checkpoint, dtype, Qwen2VLForConditionalGeneration, {})


def open_qwen2_5_vl(checkpoint: Checkpoint, dtype: torch.dtype) -> Family:
    """Take a `Qwen2_5_VLForConditionalGeneration` checkpoint apart.

    Raises:
        ExportError: The vision side is not this family's.
    """
    vision = checkpoint.config.vision_config
    merged = vision.spatial_merge_size * vision.patch_size
    settings = {
        # Whole merged patches, as the tower counts its windows.
        "window_size": vision.window_size // merged * merged,
        "time_steps": vision.tokens_per_second,
    }
    return _open(checkpoint, dtype, Qwen2_5_VLForConditionalGeneration, settings)


def open_qwen3_vl(checkpoint: Checkpoint, dtype: torch.dtype) -> Family:
    """Take a `Qwen3VLForConditionalGeneration` checkpoint apart.

    Raises:
        ExportError: The vision side is not this family's.
    """
    config = checkpoint.config
    settings = {
        "position_side": math.isqrt(config.vision_config.num_position_embeddings),
        "start_token": config.vision_start_token_id,
        "end_token": config.vision_end_token_id,
    }
    return _open(checkpoint, dtype, Qwen3VLForConditionalGeneration, settings)


def _open(
    checkpoint: Checkpoint, dtype: torch.dtype, model_class: Any, settings: dict[str, int]
) -> Family:
    config = checkpoint.config
    model = load_vision_parts(checkpoint, model_class, _PARTS, dtype)
    tower = PatchTower(model.model.visual, dtype)
    language = LanguageGraphs(checkpoint, config.text_config, dtype, len(tower.deepstack))
    check_finite(checkpoint, tower, dtype)
    spec = patch_spec(config, settings)
    return Family(config.model_type, language, patch_graph(tower), spec)
