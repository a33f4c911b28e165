"""LLaVA-NeXT: the whole image, then crops of it at the resolution that fits its shape.

Source: `LlavaNextForConditionalGeneration` of transformers.
"""

from __future__ import annotations

import torch
from transformers import LlavaNextForConditionalGeneration

from sparsevlm_trt.export.checkpoint import Checkpoint
from sparsevlm_trt.export.crop_tower import CropTower, crop_graph, crop_spec
from sparsevlm_trt.export.families.family import Family
from sparsevlm_trt.export.language_graphs import LanguageGraphs
from sparsevlm_trt.export.vision_parts import check_finite, load_vision_parts

__all__ = ["open_family"]

_PARTS = ("vision_tower", "multi_modal_projector", "image_newline")


def open_family(checkpoint: Checkpoint, dtype: torch.dtype) -> Family:
    """Take a `LlavaNextForConditionalGeneration` checkpoint apart.

    Raises:
        ExportError: An option of the vision side that this family does not have.
    """
    config = checkpoint.config
    language = LanguageGraphs(checkpoint, config.text_config, dtype)
    resolutions = tuple((rows, columns) for rows, columns in config.image_grid_pinpoints)
    spec = crop_spec(config, layout="anyres", resolutions=resolutions)
    model = load_vision_parts(checkpoint, LlavaNextForConditionalGeneration, _PARTS, dtype)
    tower = CropTower(model, dtype)
    check_finite(checkpoint, tower, dtype)
    return Family(config.model_type, language, crop_graph(tower, spec), spec)
