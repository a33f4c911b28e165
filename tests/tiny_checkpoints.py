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
    InternVLConfig,
    InternVLForConditionalGeneration,
    InternVLVisionConfig,
    LlamaConfig,
    LlamaForCausalLM,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaNextConfig,
    LlavaNextForConditionalGeneration,
    LlavaNextVideoConfig,
    LlavaNextVideoForConditionalGeneration,
    LlavaOnevisionConfig,
    LlavaOnevisionForConditionalGeneration,
    MistralConfig,
    PretrainedConfig,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2Config,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
    SiglipVisionConfig,
    SmolVLMConfig,
    SmolVLMForConditionalGeneration,
    SmolVLMVisionConfig,
    VideoLlavaConfig,
    VideoLlavaForConditionalGeneration,
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
    known = [IMAGE_TOKEN, "</s>", "<pad>", VIDEO_TOKEN]
    tokenizer.add_special_tokens(known + [one for one in special.values() if one not in known])
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


def save_llava_next_video(folder: Path) -> Path:
    """Save a tiny LLaVA-NeXT-Video."""
    config = LlavaNextVideoConfig(
        vision_config=CLIPVisionConfig(intermediate_size=96, **_VISION),
        text_config=text_config("llama", **_SHALLOW),
        image_token_index=IMAGE_ID,
        video_token_index=VIDEO_ID,
        image_grid_pinpoints=RESOLUTIONS,
    )
    _save(folder, LlavaNextVideoForConditionalGeneration, config)
    save_image_processor(
        folder,
        image_processor_type="LlavaNextImageProcessor",
        image_grid_pinpoints=RESOLUTIONS,
        do_pad=True,
    )
    frames = {"video_processor_type": "LlavaNextVideoVideoProcessor", **_CLIP_PIXELS}
    (folder / "video_preprocessor_config.json").write_text(json.dumps(frames))
    return folder


def save_video_llava(folder: Path) -> Path:
    """Save a tiny Video-LLaVA."""
    config = VideoLlavaConfig(
        vision_config=CLIPVisionConfig(intermediate_size=96, **_VISION),
        text_config=text_config("llama", **_SHALLOW),
        image_token_index=IMAGE_ID,
        video_token_index=VIDEO_ID,
    )
    _save(folder, VideoLlavaForConditionalGeneration, config)
    save_image_processor(folder, image_processor_type="VideoLlavaImageProcessor")
    frames = {"video_processor_type": "VideoLlavaVideoProcessor", **_CLIP_PIXELS}
    (folder / "video_preprocessor_config.json").write_text(json.dumps(frames))
    return folder


def save_internvl(folder: Path) -> Path:
    """Save a tiny InternVL: 16 patches of a tile become 4 tokens."""
    sizes = _VISION | {"image_size": (IMAGE_SIZE,) * 2, "patch_size": (PATCH_SIZE,) * 2}
    config = InternVLConfig(
        vision_config=InternVLVisionConfig(intermediate_size=96, **sizes),
        text_config=text_config("qwen2", **_SHALLOW),
        image_token_id=IMAGE_ID,
        image_seq_length=4,
    )
    _save(
        folder,
        InternVLForConditionalGeneration,
        config,
        start_image_token="<img>",
        end_image_token="</img>",
        context_image_token=IMAGE_TOKEN,
        video_token=VIDEO_TOKEN,
    )
    save_image_processor(
        folder,
        image_processor_type="GotOcr2ImageProcessor",
        crop_to_patches=True,
        max_patches=6,
        **{key: _SQUARE_PIXELS[key] for key in ("size", "do_center_crop", "crop_size")},
    )
    frames = {"video_processor_type": "InternVLVideoProcessor", **_SQUARE_PIXELS}
    (folder / "video_preprocessor_config.json").write_text(json.dumps(frames))
    return folder


def save_smolvlm(folder: Path) -> Path:
    """Save a tiny SmolVLM: 16 patches of a tile become 4 tokens, up to 2 x 2 tiles."""
    config = SmolVLMConfig(
        vision_config=SmolVLMVisionConfig(intermediate_size=96, **_VISION),
        text_config=text_config("llama", **_SHALLOW),
        image_token_id=IMAGE_ID,
        scale_factor=2,
        pad_token_id=258,
    )
    _save(
        folder,
        SmolVLMForConditionalGeneration,
        config,
        fake_image_token="<fake_token_around_image>",
        global_image_token="<global-img>",
    )
    save_image_processor(
        folder,
        image_processor_type="SmolVLMImageProcessor",
        size={"longest_edge": 2 * IMAGE_SIZE},
        max_image_size={"longest_edge": IMAGE_SIZE},
        resample=1,
        do_center_crop=False,
        crop_size=None,
    )
    return folder


# Three axes for the 8 frequencies of a head of 16.
_M_ROPE = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 3, 3]}


def save_qwen2_vl(folder: Path, **tower: object) -> Path:
    """Save a tiny Qwen2-VL; `tower` are changes of its vision config."""
    vision = {"depth": 2, "embed_dim": 64, "hidden_size": 64, "num_heads": 2, "mlp_ratio": 2}
    vision |= tower
    return _save_qwen(folder, Qwen2VLConfig, Qwen2VLForConditionalGeneration, vision)


def save_qwen2_5_vl(folder: Path, **tower: object) -> Path:
    """Save a tiny Qwen2.5-VL: windows of 2 x 2 merged patches in the first layer of two.

    `tower` are changes of its vision config.
    """
    vision = {
        "depth": 2,
        "hidden_size": 64,
        "out_hidden_size": 64,
        "num_heads": 2,
        "intermediate_size": 96,
        "window_size": 56,
        "fullatt_block_indexes": [1],
        **tower,
    }
    return _save_qwen(folder, Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration, vision)


def _save_qwen(folder: Path, config_class: Any, model_class: Any, vision: dict[str, Any]) -> Path:
    text = _TEXT | _SHALLOW | {"rope_parameters": _M_ROPE}
    config = config_class(
        text_config=text, vision_config=vision, image_token_id=IMAGE_ID, video_token_id=VIDEO_ID
    )
    _save(folder, model_class, config)
    bounds = {"min_pixels": 56 * 56, "max_pixels": 28 * 28 * 40}
    pixels = {**_SQUARE_PIXELS, "size": None, **bounds}
    save_image_processor(folder, image_processor_type="Qwen2VLImageProcessor", **pixels)
    frames = {"video_processor_type": "Qwen2VLVideoProcessor", **pixels}
    (folder / "video_preprocessor_config.json").write_text(json.dumps(frames))
    return folder


def save_qwen3_vl(folder: Path, **tower: object) -> Path:
    """Save a tiny Qwen3-VL: two of the tower's three layers feed the decoder's first two.

    `tower` are changes of its vision config.
    """
    vision = {
        "depth": 3,
        "hidden_size": 64,
        "out_hidden_size": 64,
        "num_heads": 2,
        "intermediate_size": 96,
        "num_position_embeddings": 36,
        "deepstack_visual_indexes": [0, 2],
        **tower,
    }
    config = Qwen3VLConfig(
        text_config=_TEXT | _SHALLOW | {"head_dim": 16, "rope_parameters": _M_ROPE},
        vision_config=vision,
        image_token_id=IMAGE_ID,
        video_token_id=VIDEO_ID,
        vision_start_token_id=260,
        vision_end_token_id=261,
    )
    _save(
        folder,
        Qwen3VLForConditionalGeneration,
        config,
        vision_start_token="<|vision_start|>",
        vision_end_token="<|vision_end|>",
    )
    size = {"shortest_edge": 64 * 64, "longest_edge": 32 * 32 * 40}
    pixels = {**_SQUARE_PIXELS, "size": size}
    save_image_processor(folder, image_processor_type="Qwen2VLImageProcessorFast", **pixels)
    frames = {"video_processor_type": "Qwen3VLVideoProcessor", **pixels}
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
    for parameter in model.get_decoder().parameters():
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
    "internvl": save_internvl,
    "llava_next": save_llava_next,
    "llava_next_video": save_llava_next_video,
    "llava_onevision": save_llava_onevision,
    "qwen2_5_vl": save_qwen2_5_vl,
    "qwen2_vl": save_qwen2_vl,
    "qwen3_vl": save_qwen3_vl,
    "smolvlm": save_smolvlm,
    "video_llava": save_video_llava,
}
