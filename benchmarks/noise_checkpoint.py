"""A checkpoint of any of transformers' models with noise for weights, and a tokenizer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

__all__ = [
    "IMAGE_ID",
    "VIDEO_ID",
    "VISION_END_ID",
    "VISION_START_ID",
    "save_noise",
    "save_tokenizer",
]

NOISE_STD = 0.02  # as models are initialised
_NOISE_VALUES = 1 << 22
IMAGE_ID, VIDEO_ID, VISION_START_ID, VISION_END_ID = 256, 257, 258, 259
_NAMED = {  # every family finds its own among these
    "image_token": "<image>",
    "video_token": "<video>",
    "vision_start_token": "<|vision_start|>",
    "vision_end_token": "<|vision_end|>",
    "start_image_token": "<img>",
    "end_image_token": "</img>",
    "fake_image_token": "<fake_token_around_image>",
    "global_image_token": "<global-img>",
}
_MOST_TILES = 6  # rows and columns that SmolVLM's vocabulary has words for


def save_noise(model_class: Any, config: Any, folder: Path) -> int:
    """Write a model of this config; returns the number of its weights."""
    with torch.device("meta"):
        model = model_class(config)
    model = model.to(torch.float16).to_empty(device="cpu")
    model.tie_weights()
    noise = torch.randn(_NOISE_VALUES, generator=torch.Generator().manual_seed(0)) * NOISE_STD
    noise = noise.half()
    total = 0
    for number, (name, parameter) in enumerate(model.named_parameters()):
        count = parameter.numel()
        # Tiled and shifted: as random as a run can tell, and made at memory speed.
        tiled = noise.roll(number * 7919).repeat(-(-count // len(noise)))[:count]
        is_norm = name.endswith("weight") and "norm" in name.lower()
        parameter.data.copy_((tiled + float(is_norm)).reshape(parameter.shape))
        total += count
    model.save_pretrained(folder)
    return total


def save_tokenizer(folder: Path) -> None:
    """Write a byte-level tokenizer: a token a letter, and one for each special token."""
    vocab = {letter: i for i, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    sides = range(1, _MOST_TILES + 1)
    places = [f"<row_{row}_col_{column}>" for row in sides for column in sides]
    tokenizer.add_special_tokens([*_NAMED.values(), *places])
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", **_NAMED}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
