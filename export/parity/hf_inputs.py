"""A prompt's images and videos in the arrays that transformers' models take."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from sparsevlm_trt.runtime.visuals.visual import Visual

__all__ = ["hf_inputs"]


def hf_inputs(model_type: str, visuals: Sequence[Visual]) -> dict[str, Tensor]:
    """Name and shape the pixels as the model's `forward` wants them.

    Args:
        model_type: The whole model's.
        visuals: In the order of their placeholders.
    """
    if not visuals:
        return {}
    return _FORMS[model_type](visuals)


def _rows(visuals: Sequence[Visual], name: str = "pixel_values") -> Tensor:
    return torch.from_numpy(np.concatenate([one.inputs[name] for one in visuals]))


def _plain(visuals: Sequence[Visual]) -> dict[str, Tensor]:
    return {"pixel_values": _rows(visuals)}


def _anyres(visuals: Sequence[Visual]) -> dict[str, Tensor]:
    images = [one for one in visuals if one.kind == "image"]
    films = [one for one in visuals if one.kind == "video"]
    made: dict[str, Tensor] = {}
    if images:
        most = max(one.num_rows for one in images)
        padded = [
            np.pad(one.inputs["pixel_values"], ((0, most - one.num_rows), *[(0, 0)] * 3))
            for one in images
        ]
        made["pixel_values"] = torch.from_numpy(np.stack(padded))
        made["image_sizes"] = torch.tensor([one.size for one in images])
    if films:
        made["pixel_values_videos"] = torch.stack([_rows([one]) for one in films])
    return made


def _onevision(visuals: Sequence[Visual]) -> dict[str, Tensor]:
    made = _anyres(visuals)
    if "pixel_values" in made:
        made["batch_num_images"] = torch.tensor([len(made["pixel_values"])])
    return made


def _images_and_frames(visuals: Sequence[Visual]) -> dict[str, Tensor]:
    images = [one for one in visuals if one.kind == "image"]
    films = [one for one in visuals if one.kind == "video"]
    made = _plain(images) if images else {}
    if films:
        made["pixel_values_videos"] = torch.stack([_rows([one]) for one in films])
    return made


def _patches(visuals: Sequence[Visual]) -> dict[str, Tensor]:
    made: dict[str, Tensor] = {}
    for kind, suffix in (("image", ""), ("video", "_videos")):
        mine = [one for one in visuals if one.kind == kind]
        if mine:
            made[f"pixel_values{suffix}"] = _rows(mine)
            made[f"{kind}_grid_thw"] = torch.tensor([_grid(one) for one in mine])
    return made


def _patches_in_time(visuals: Sequence[Visual]) -> dict[str, Tensor]:
    made = _patches(visuals)
    films = [one for one in visuals if one.kind == "video"]
    if films:
        # Of steps 4 to a second, as the tests' and the published configs have it.
        made["second_per_grid_ts"] = torch.tensor([one.interval / 4 for one in films])
    return made


def _grid(visual: Visual) -> list[int]:
    """Time steps, rows and columns of patches before they are merged."""
    time, rows, columns = visual.cells
    patches = len(visual.inputs["pixel_values"])
    merge = math.isqrt(patches // (time * rows * columns))
    return [time, rows * merge, columns * merge]


_FORMS: dict[str, Callable[[Sequence[Visual]], dict[str, Tensor]]] = {
    "internvl": _plain,
    "llava": _plain,
    "llava_next": _anyres,
    "llava_next_video": _anyres,
    "llava_onevision": _onevision,
    "qwen2_5_vl": _patches_in_time,
    "qwen2_vl": _patches,
    "qwen3_vl": _patches,
    "smolvlm": lambda visuals: {"pixel_values": _rows(visuals)[None]},
    "video_llava": _images_and_frames,
}
