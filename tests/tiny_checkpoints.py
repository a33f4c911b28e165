"""Tiny random checkpoints of the real classes, with all their processor files, by kind."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    CLIPVisionConfig,
    Dinov2Config,
    LlamaConfig,
    LlamaForCausalLM,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaNextConfig,
    LlavaNextForConditionalGeneration,
    LlavaOnevisionConfig,
    LlavaOnevisionForConditionalGeneration,
    MistralConfig,
    PretrainedConfig,
    Qwen2Config,
    SiglipVisionConfig,
)

# 16 patches of 14 pixels: small, yet prunable twice.
IMAGE_SIZE, PATCH_SIZE, GRID = 56, 14, 4
VOCAB_SIZE, IMAGE_TOKEN, VIDEO_TOKEN = 300, "<image>", "<video>"
IMAGE_ID, VIDEO_ID = 256, 259
RESOLUTIONS = [[56, 112], [112, 56], [112, 112], [168, 56], [56, 168]]
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ message['role'] | upper }}: "
    "{% if message['content'] is string %}{{ message['content'] }}"
    "{% else %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<image>\n{% elif part['type'] == 'video' %}<video>\n"
    "{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endif %} {% endfor %}{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)

_TEXT = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 6,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": VOCAB_SIZE,
    "max_position_embeddings": 512,
    "bos_token_id": None,
    "eos_token_id": 257,
    "pad_token_id": 258,
}
# What families differ in is not the depth of their language model.
_SHALLOW = {"num_hidden_layers": 3}
# Heads of 32: the smallest that TensorRT fuses an attention for.
_VISION = {
    "hidden_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "image_size": IMAGE_SIZE,
    "patch_size": PATCH_SIZE,
}
_CLIP_PIXELS = {
    "do_convert_rgb": True,
    "do_resize": True,
    "size": {"shortest_edge": IMAGE_SIZE},
    "resample": 3,
    "do_center_crop": True,
    "crop_size": {"height": IMAGE_SIZE, "width": IMAGE_SIZE},
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "do_normalize": True,
    "image_mean": [0.48, 0.46, 0.41],
    "image_std": [0.27, 0.26, 0.28],
}
_SQUARE_PIXELS = _CLIP_PIXELS | {
    "size": {"height": IMAGE_SIZE, "width": IMAGE_SIZE},
    "do_center_crop": False,
    "crop_size": None,
}


def text_config(model_type: str, **changes: object) -> PretrainedConfig:
    """Config of a tiny language model."""
    kinds = {"llama": LlamaConfig, "mistral": MistralConfig, "qwen2": Qwen2Config}
    return kinds[model_type](**{**_TEXT, **changes})


def save_tokenizer(folder: Path, **special: str) -> None:
    """Write a byte-level tokenizer that knows the placeholders; every text has ids below 256.

    `special` are further named tokens; their ids begin at 260, in order.
    """
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {letter: i for i, letter in enumerate(alphabet)}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([IMAGE_TOKEN, "</s>", "<pad>", VIDEO_TOKEN, *special.values()])
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": "</s>",
        "pad_token": "<pad>",
        "model_max_length": 512,
        **special,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    (folder / "chat_template.jinja").write_text(CHAT_TEMPLATE)


def save_image_processor(folder: Path, **changes: object) -> None:
    """Write a CLIP-style image processor for the tiny tower."""
    config = {"image_processor_type": "CLIPImageProcessor", **_CLIP_PIXELS, **changes}
    (folder / "preprocessor_config.json").write_text(json.dumps(config))


def save_llava(folder: Path, model_type: str, tower: str = "clip", **text: object) -> Path:
    """Save a tiny random LLaVA with all its processor files."""
    vision: PretrainedConfig
    if tower == "clip":
        vision = CLIPVisionConfig(intermediate_size=96, **_VISION)
    else:
        vision = Dinov2Config(mlp_ratio=2, **_VISION)
    config = LlavaConfig(
        vision_config=vision,
        text_config=text_config(model_type, **text),
        image_token_index=IMAGE_ID,
        vision_feature_layer=-2,
        tie_word_embeddings=bool(text.get("tie_word_embeddings")),
    )
    _save(folder, LlavaForConditionalGeneration, config)
    save_image_processor(folder)
    return folder


def save_llava_next(folder: Path) -> Path:
    """Save a tiny LLaVA-NeXT on Mistral."""
    config = LlavaNextConfig(
        vision_config=CLIPVisionConfig(intermediate_size=96, **_VISION),
        text_config=text_config("mistral", **_SHALLOW),
        image_token_index=IMAGE_ID,
        image_grid_pinpoints=RESOLUTIONS,
    )
    _save(folder, LlavaNextForConditionalGeneration, config)
    save_image_processor(
        folder,
        image_processor_type="LlavaNextImageProcessor",
        image_grid_pinpoints=RESOLUTIONS,
        do_pad=True,
    )
    return folder


def save_llava_onevision(folder: Path) -> Path:
    """Save a tiny LLaVA-OneVision; of three tiles' worth of a map it keeps two's."""
    config = LlavaOnevisionConfig(
        vision_config=SiglipVisionConfig(intermediate_size=96, vision_use_head=False, **_VISION),
        text_config=text_config("qwen2", **_SHALLOW),
        image_token_index=IMAGE_ID,
        video_token_index=VIDEO_ID,
        image_grid_pinpoints=RESOLUTIONS,
        vision_aspect_ratio="anyres_max_2",
    )
    _save(folder, LlavaOnevisionForConditionalGeneration, config)
    save_image_processor(
        folder,
        image_processor_type="LlavaOnevisionImageProcessor",
        image_grid_pinpoints=RESOLUTIONS,
        do_pad=True,
        **{key: _SQUARE_PIXELS[key] for key in ("size", "do_center_crop", "crop_size")},
    )
    frames = {"video_processor_type": "LlavaOnevisionVideoProcessor", **_SQUARE_PIXELS}
    (folder / "video_preprocessor_config.json").write_text(json.dumps(frames))
    return folder


def save_llama(folder: Path) -> Path:
    """Save a bare language model."""
    torch.manual_seed(1)
    LlamaForCausalLM(text_config("llama")).save_pretrained(folder)
    return folder


def _save(folder: Path, model_class: Any, config: PretrainedConfig, **special: str) -> None:
    torch.manual_seed(0)
    model = model_class(config).eval()
    # The default initialisation gives hidden states near zero and hence near-ties everywhere.
    for parameter in model.model.language_model.parameters():
        parameter.data.mul_(4.0 if parameter.dim() > 1 else 1.0)
    model.save_pretrained(folder)
    save_tokenizer(folder, **special)


# GQA and a CLIP tower; a tied head and a DINOv2 tower; then one for each family.
CHECKPOINTS: dict[str, Callable[[Path], Path]] = {
    "llava-llama": lambda folder: save_llava(folder, "llama"),
    "llava-mistral": lambda folder: save_llava(
        folder, "mistral", tower="dinov2", tie_word_embeddings=True
    ),
    "llama": save_llama,
    "llava_next": save_llava_next,
    "llava_onevision": save_llava_onevision,
}
