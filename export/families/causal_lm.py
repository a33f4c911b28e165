"""Bare causal language models (`llama`, `mistral`): embeddings of images come from outside."""

from __future__ import annotations

import torch

from sparsevlm_trt.export.checkpoint import Checkpoint
from sparsevlm_trt.export.families.family import Family
from sparsevlm_trt.export.language_graphs import LanguageGraphs

__all__ = ["open_family"]


def open_family(checkpoint: Checkpoint, dtype: torch.dtype) -> Family:
    """Take a `LlamaForCausalLM` or `MistralForCausalLM` checkpoint apart."""
    config = checkpoint.config
    return Family(config.model_type, LanguageGraphs(checkpoint, config, dtype))
