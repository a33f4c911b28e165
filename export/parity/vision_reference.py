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
def vision_reference(model: Any, graph: str, given: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Compute the outputs of a bundle's `vision` or `video` graph.

    Args:
        model: The whole model.
        graph: Which of the two.
        given: The graph's inputs, floats in float32.
    """
    if graph == "video":
        return _frames(model, given)
    made: dict[str, Tensor] = _FORMS.get(model.config.model_type, _crops)(model, given)
    return made


def _features(model: Any, given: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Images that the model itself leaves unpacked."""
    found = model.model.get_image_features(given["pixel_values"], return_dict=True)
    return {"image_features": found.pooler_output}


def _frames(model: Any, given: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Frames of a video, one after the other."""
    frames = given["pixel_values"]
    found = model.model.get_video_features(frames[None], return_dict=True).pooler_output
    return {"image_features": found.reshape(len(frames), -1, found.shape[-1])}


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


def _tiles(model: Any, given: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tiles of one prompt, which the model counts as images."""
    pixels = given["pixel_values"]
    found = model.model.get_image_features(pixels[None], return_dict=True).pooler_output
    features = torch.cat(list(found))
    return {"image_features": features.reshape(len(pixels), -1, features.shape[-1])}


def _patches(model: Any, given: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Patches of any number of frames: each frame is a picture of its own."""
    grid = []
    for segment in range(int(given["segments"].max()) + 1):
        places = given["patch_positions"][given["segments"] == segment]
        grid.append([1, *(places.max(dim=0).values + 1).tolist()])
    found = model.model.visual(given["pixel_values"], grid_thw=torch.tensor(grid))
    made = {"image_features": found.pooler_output}
    deep = getattr(found, "deepstack_features", None)
    return made | {"deepstack_features": torch.cat(deep, dim=1)} if deep else made


_FORMS: dict[str, Callable[[Any, Mapping[str, Tensor]], dict[str, Tensor]]] = {
    "internvl": _features,
    "qwen2_5_vl": _patches,
    "qwen2_vl": _patches,
    "qwen3_vl": _patches,
    "smolvlm": _tiles,
    "video_llava": _features,
}
