"""What the vision graph should compute, by transformers' own methods.

Dims: I rows of the graph, V tokens of a row, N hidden size.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from transformers.models.llava.modeling_llava import LlavaModel

__all__ = ["vision_reference"]


@torch.no_grad()
def vision_reference(model: Any, given: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Compute the outputs of a bundle's vision graph.

    Args:
        model: The whole model.
        given: The graph's inputs, floats in float32.
    """
    made: dict[str, Tensor] = _FORMS[model.config.model_type](model, given)
    return made


def _crops(model: Any, given: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Crops of one size, not packed yet: LLaVA's own method, which its successors share."""
    config = model.config
    found = LlavaModel.get_image_features(
        model.model,
        pixel_values=given["pixel_values"],
        vision_feature_layer=config.vision_feature_layer,
        vision_feature_select_strategy=config.vision_feature_select_strategy,
        return_dict=True,
    )
    made = {"image_features": torch.stack(list(found.pooler_output))}
    newline = getattr(model.model, "image_newline", None)
    return made if newline is None else made | {"image_newline": newline[None]}


_FORMS: dict[str, Callable[[Any, Mapping[str, Tensor]], dict[str, Tensor]]] = {
    "llava": _crops,
    "llava_next": _crops,
    "llava_onevision": _crops,
}
