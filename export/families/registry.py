"""The families of models that can be exported, found by Hugging Face's model_type."""

from __future__ import annotations

from collections.abc import Callable

import torch

from sparsevlm_trt.export.checkpoint import Checkpoint
from sparsevlm_trt.export.families import (
    causal_lm,
    internvl,
    llava,
    llava_next,
    llava_next_video,
    llava_onevision,
    qwen_vl,
    smolvlm,
    video_llava,
)
from sparsevlm_trt.export.families.family import Family
from sparsevlm_trt.runtime.errors import ExportError

__all__ = ["FAMILIES", "open_family"]

FAMILIES: dict[str, Callable[[Checkpoint, torch.dtype], Family]] = {
    "internvl": internvl.open_family,
    "llama": causal_lm.open_family,
    "llava": llava.open_family,
    "llava_next": llava_next.open_family,
    "llava_next_video": llava_next_video.open_family,
    "llava_onevision": llava_onevision.open_family,
    "mistral": causal_lm.open_family,
    "qwen2": causal_lm.open_family,
    "qwen2_5_vl": qwen_vl.open_qwen2_5_vl,
    "qwen2_vl": qwen_vl.open_qwen2_vl,
    "qwen3": causal_lm.open_family,
    "qwen3_vl": qwen_vl.open_qwen3_vl,
    "smolvlm": smolvlm.open_family,
    "video_llava": video_llava.open_family,
}


def open_family(checkpoint: Checkpoint, dtype: torch.dtype) -> Family:
    """Find what knows this checkpoint's names.

    Args:
        checkpoint: An opened checkpoint.
        dtype: Model type of the graphs.

    Raises:
        ExportError: No family for this model_type; the sentence names those there are.
    """
    model_type = checkpoint.config.model_type
    if model_type not in FAMILIES:
        raise ExportError(
            f"checkpoint {checkpoint.path} | got model_type {model_type!r} "
            f"| expected one of {', '.join(sorted(FAMILIES))} "
            "| see docs/families.md for how to add one"
        )
    return FAMILIES[model_type](checkpoint, dtype)
