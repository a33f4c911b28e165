"""Published models by their numbers, the language model cut to a few layers, for random weights.

Vision towers are whole. They are the defaults of transformers' config classes but where a number
is written; numbers are those of the `config.json` and `preprocessor_config.json` of the model
named. Ids of special tokens are those of `noise_checkpoint.save_tokenizer`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import transformers as hf
from noise_checkpoint import IMAGE_ID, VIDEO_ID, VISION_END_ID, VISION_START_ID

__all__ = ["SHAPES", "RealShape"]

_IMAGE = {"image_token_index": IMAGE_ID}
_FILM = _IMAGE | {"video_token_index": VIDEO_ID}
_ROPE = {"rope_type": "default", "rope_theta": 1e6}
_QWEN = {"image_token_id": IMAGE_ID, "video_token_id": VIDEO_ID}


@dataclass(frozen=True)
class RealShape:
    """A family at the size of one published model.

    Attributes:
        published: The model whose numbers these are.
        model: Its class.
        config: Makes its config, given the number of decoder layers.
        pixels: Content of `preprocessor_config.json`.
        films: Content of `video_preprocessor_config.json`; None where there is none.
        size: Rows and columns of the picture or of each frame, pixels.
        num_frames: Frames of the video; 0 for a picture.
        first_boundary: The first layer after which a prune step may stand.
    """

    published: str
    model: Any
    config: Callable[[int], Any]
    pixels: dict[str, Any]
    size: tuple[int, int]
    films: dict[str, Any] | None = None
    num_frames: int = 0
    first_boundary: int = 0


def _vicuna(layers: int) -> hf.LlamaConfig:
    """Vicuna 7B: the defaults of `LlamaConfig`, with its 4096 positions."""
    return hf.LlamaConfig(
        num_hidden_layers=layers,
        vocab_size=32064,
        max_position_embeddings=4096,
        rms_norm_eps=1e-5,
    )


def _mistral(layers: int) -> hf.MistralConfig:
    """Mistral 7B Instruct v0.2, in LLaVA-NeXT."""
    return hf.MistralConfig(
        num_hidden_layers=layers,
        vocab_size=32064,
        max_position_embeddings=32768,
        rope_parameters=_ROPE,
        sliding_window=None,
        rms_norm_eps=1e-5,
    )


def _qwen2_half(layers: int, vocab_size: int) -> hf.Qwen2Config:
    """Qwen2 and Qwen2.5 0.5B Instruct, in LLaVA-OneVision and InternVL3."""
    return hf.Qwen2Config(
        hidden_size=896,
        intermediate_size=4864,
        num_hidden_layers=layers,
        num_attention_heads=14,
        num_key_value_heads=2,
        vocab_size=vocab_size,
        max_position_embeddings=32768,
        rope_parameters=_ROPE,
        tie_word_embeddings=True,
    )


def _qwen(layers: int, hidden: int, inner: int, heads: int, kv: int, **more: Any) -> Any:
    """Text side of a Qwen-VL model: three axes, tied head."""
    return {
        "hidden_size": hidden,
        "intermediate_size": inner,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv,
        "vocab_size": 151936,
        "max_position_embeddings": 32768,
        "tie_word_embeddings": True,
        "rope_parameters": _ROPE | {"mrope_section": [16, 24, 24]},
        **more,
    }


def _smolvlm(layers: int) -> Any:
    """A shape-optimised SigLIP, and SmolLM2 1.7B Instruct."""
    tower = {"intermediate_size": 4304, "num_hidden_layers": 27, "image_size": 384}
    text = hf.LlamaConfig(
        hidden_size=2048,
        intermediate_size=8192,
        num_hidden_layers=layers,
        vocab_size=49280,
        max_position_embeddings=8192,
        rms_norm_eps=1e-5,
        rope_parameters=_ROPE | {"rope_theta": 130000.0},
    )
    return hf.SmolVLMConfig(
        vision_config=hf.SmolVLMVisionConfig(**tower, patch_size=14, num_attention_heads=16),
        text_config=text,
        image_token_id=IMAGE_ID,
        scale_factor=3,
    )


def _qwen3_vl(layers: int) -> Any:
    rope = {"rope_type": "default", "rope_theta": 5e6, "mrope_section": [24, 20, 20]}
    text = {"head_dim": 128, "max_position_embeddings": 262144, "rope_parameters": rope}
    tower = {"hidden_size": 1024, "intermediate_size": 4096, "out_hidden_size": 2048, "depth": 24}
    return hf.Qwen3VLConfig(
        text_config=_qwen(layers, 2048, 6144, 16, 8, **text),
        vision_config=tower | {"deepstack_visual_indexes": [5, 11, 17]},
        vision_start_token_id=VISION_START_ID,
        vision_end_token_id=VISION_END_ID,
        tie_word_embeddings=True,
        **_QWEN,
    )


def _pixels(kind: str, **more: Any) -> dict[str, Any]:
    return {"image_processor_type": f"{kind}ImageProcessor", **more}


def _square(side: int) -> dict[str, int]:
    return {"height": side, "width": side}


_NEXT_GRIDS = [[336, 672], [672, 336], [672, 672], [1008, 336], [336, 1008]]
_NEXT_PIXELS = _pixels(
    "LlavaNext",
    size={"shortest_edge": 336},
    crop_size=_square(336),
    image_grid_pinpoints=_NEXT_GRIDS,
)
_ONEVISION_GRIDS = [[384 * rows, 384 * columns] for rows in range(1, 7) for columns in range(1, 7)]
_QWEN2_5_TOWER = {"hidden_size": 1280, "tokens_per_second": 2}
_QWEN_PIXELS = _pixels("Qwen2VL", min_pixels=56 * 56, max_pixels=28 * 28 * 16384)
_QWEN_FILMS = {"video_processor_type": "Qwen2VLVideoProcessor"}

SHAPES: dict[str, RealShape] = {
    "llava_next": RealShape(
        "llava-v1.6-mistral-7b",
        hf.LlavaNextForConditionalGeneration,
        lambda n: hf.LlavaNextConfig(text_config=_mistral(n), **_IMAGE),
        _NEXT_PIXELS,
        (672, 672),
    ),
    "video_llava": RealShape(
        "Video-LLaVA-7B",
        hf.VideoLlavaForConditionalGeneration,
        lambda n: hf.VideoLlavaConfig(text_config=_vicuna(n), **_FILM),
        _pixels("VideoLlava"),
        (360, 640),
        films={"video_processor_type": "VideoLlavaVideoProcessor"},
        num_frames=8,
    ),
    "qwen2_5_vl": RealShape(
        "Qwen2.5-VL-3B-Instruct",
        hf.Qwen2_5_VLForConditionalGeneration,
        lambda n: hf.Qwen2_5_VLConfig(
            text_config=_qwen(n, 2048, 11008, 16, 2, max_position_embeddings=128000),
            vision_config=_QWEN2_5_TOWER | {"out_hidden_size": 2048},
            tie_word_embeddings=True,
            **_QWEN,
        ),
        _QWEN_PIXELS,
        (980, 980),
        films=_QWEN_FILMS,
    ),
    "qwen2_vl": RealShape(
        "Qwen2-VL-2B-Instruct",
        hf.Qwen2VLForConditionalGeneration,
        lambda n: hf.Qwen2VLConfig(
            text_config=_qwen(n, 1536, 8960, 12, 2),
            vision_config={"hidden_size": 1536},
            tie_word_embeddings=True,
            **_QWEN,
        ),
        _QWEN_PIXELS,
        (980, 980),
        films=_QWEN_FILMS,
    ),
    "qwen3_vl": RealShape(
        "Qwen3-VL-2B-Instruct",
        hf.Qwen3VLForConditionalGeneration,
        _qwen3_vl,
        _pixels(
            "Qwen2VL",
            size={"shortest_edge": 65536, "longest_edge": 16777216},
            image_mean=[0.5] * 3,
            image_std=[0.5] * 3,
        ),
        (960, 960),
        films={"video_processor_type": "Qwen3VLVideoProcessor"},
        first_boundary=2,
    ),
    "llava_next_video": RealShape(
        "LLaVA-NeXT-Video-7B",
        hf.LlavaNextVideoForConditionalGeneration,
        lambda n: hf.LlavaNextVideoConfig(text_config=_vicuna(n), **_FILM),
        _NEXT_PIXELS,
        (360, 640),
        films={**_NEXT_PIXELS, "video_processor_type": "LlavaNextVideoVideoProcessor"},
        num_frames=16,
    ),
    "llava_onevision": RealShape(
        "llava-onevision-qwen2-0.5b-ov",
        hf.LlavaOnevisionForConditionalGeneration,
        lambda n: hf.LlavaOnevisionConfig(
            text_config=_qwen2_half(n, 152000), image_grid_pinpoints=_ONEVISION_GRIDS, **_FILM
        ),
        _pixels("LlavaOnevision", size=_square(384), image_grid_pinpoints=_ONEVISION_GRIDS),
        (768, 768),
        films={"video_processor_type": "LlavaOnevisionVideoProcessor", "size": _square(384)},
    ),
    "internvl": RealShape(
        "InternVL3-1B",
        hf.InternVLForConditionalGeneration,
        lambda n: hf.InternVLConfig(
            text_config=_qwen2_half(n, 151674), image_token_id=IMAGE_ID, tie_word_embeddings=True
        ),
        _pixels("GotOcr2", size=_square(448), crop_to_patches=True, max_patches=12),
        (1344, 1792),
        films={"video_processor_type": "InternVLVideoProcessor", "size": _square(448)},
    ),
    "smolvlm": RealShape(
        "SmolVLM2-2.2B-Instruct",
        hf.SmolVLMForConditionalGeneration,
        _smolvlm,
        _pixels("SmolVLM", size={"longest_edge": 1536}, max_image_size={"longest_edge": 384}),
        (1536, 1536),
    ),
}
