"""The vision side of a checkpoint: loaded by transformers, without the language model."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PretrainedConfig
from transformers.utils import logging

from sparsevlm_trt.export.checkpoint import Checkpoint
from sparsevlm_trt.runtime.errors import ExportError

__all__ = ["FeatureModel", "check_finite", "load_vision_parts"]


class FeatureModel(nn.Module):
    """A loaded model's own way from pixels to features, as a graph's module."""

    def __init__(self, model: Any) -> None:
        """Take the model; what `get_image_features` does not touch leaves no trace."""
        super().__init__()
        self.model = model.model

    def forward(self, pixel_values: Tensor) -> Tensor:
        """`[I, 3, h, w]` float32 to `[I, V, N]` of the model's type."""
        found = self.model.get_image_features(pixel_values=pixel_values, return_dict=True)
        features: Tensor = found.pooler_output
        return features


def load_vision_parts(
    checkpoint: Checkpoint, model_class: Any, parts: Sequence[str], dtype: torch.dtype
) -> Any:
    """Let transformers load the vision side: it knows every name a tower ever had.

    Args:
        checkpoint: Where the weights are.
        model_class: The whole model's class.
        parts: What the names of the vision side's tensors contain.
        dtype: Model type.

    Returns:
        The whole model, its language model shrunk to nothing.

    Raises:
        ExportError: A tensor is missing, or has another shape than the config says.
    """
    config = copy.deepcopy(checkpoint.config)
    _shrink(config.text_config)
    weights = {name: value for part in parts for name, value in checkpoint.tensors(part).items()}
    with _silence():
        model, report = model_class.from_pretrained(
            None,
            config=config,
            state_dict=weights,
            dtype=dtype,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # we tell of them ourselves
        )
    absent = [n for n in sorted(report["missing_keys"]) if any(part in n for part in parts)]
    problems = [f"no tensor {name}" for name in absent]
    problems += [f"{name} is {list(got)}" for name, got, _ in sorted(report["mismatched_keys"])]
    if problems:
        raise ExportError(
            f"checkpoint {checkpoint.path} | {'; '.join(problems)} "
            "| expected the vision tower of config.json | the config does not fit the weights"
        )
    return model.eval()


def check_finite(checkpoint: Checkpoint, module: nn.Module, dtype: torch.dtype) -> None:
    """Refuse weights that a narrower type made infinite.

    Raises:
        ExportError: Names the parameters.
    """
    lost = [n for n, p in module.named_parameters() if not bool(torch.isfinite(p).all())]
    if lost:
        raise ExportError(
            f"checkpoint {checkpoint.path} | {', '.join(lost)} not finite as {dtype} "
            "| expected numbers within its range | export with --dtype float32"
        )


def _shrink(text: PretrainedConfig) -> None:
    """Leave nothing of the language model: its weights are ours to read, one by one."""
    text.num_hidden_layers = 0
    text.vocab_size = text.intermediate_size = 1
    text.pad_token_id, text.layer_types = None, []


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
