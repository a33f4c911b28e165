"""How the exporter writes `sparsevlm_ops.topk`: as one standard TopK node."""

from collections.abc import Callable
from typing import Any

import torch

# Importing it registers the operator that the table below is about.
from sparsevlm_ops import topk  # noqa: F401


def onnx_translations() -> dict[Callable[..., Any], Callable[..., Any]]:
    """Make the `custom_translation_table` that `torch.onnx.export` needs for these graphs."""
    # A deploy box, and eager use, have no onnxscript.
    from onnxscript import opset23 as op

    def top_k(values: Any, k: Any) -> Any:
        return op.TopK(values, op.Reshape(k, [1]), axis=-1, largest=1, sorted=1)

    return {torch.ops.sparsevlm.top_k.default: top_k}
