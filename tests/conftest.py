"""Tiny random checkpoints, and bundles of them, shared by all tests of a run."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import onnxruntime
import pytest
import torch
from click.testing import CliRunner
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    CLIPVisionConfig,
    Dinov2Config,
    LlamaConfig,
    LlamaForCausalLM,
    LlavaConfig,
    LlavaForConditionalGeneration,
    MistralConfig,
    PretrainedConfig,
)

from sparsevlm_trt.export import export_bundle
from sparsevlm_trt.runtime.cli import main
from sparsevlm_trt.runtime.ort import OnnxRuntimeRunner

# 16 patches of 14 pixels: small, yet prunable twice.
IMAGE_SIZE, PATCH_SIZE, GRID = 56, 14, 4
VOCAB_SIZE, IMAGE_TOKEN = 300, "<image>"
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ message['role'] | upper }}: "
    "{% if message['content'] is string %}{{ message['content'] }}"
    "{% else %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<image>\n{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endif %} {% endfor %}{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)
SMALL_SCHEDULE = {1: 9, 3: 5}

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


def text_config(model_type: str, **changes: object) -> PretrainedConfig:
    """Config of a tiny language model."""
    kinds = {"llama": LlamaConfig, "mistral": MistralConfig}
    return kinds[model_type](**{**_TEXT, **changes})


def save_tokenizer(folder: Path) -> None:
    """Write a byte-level tokenizer that knows `<image>`; every text has ids below 259."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {letter: i for i, letter in enumerate(alphabet)}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([IMAGE_TOKEN, "</s>", "<pad>"])
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": "</s>",
        "pad_token": "<pad>",
        "model_max_length": 512,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    (folder / "chat_template.jinja").write_text(CHAT_TEMPLATE)


def save_image_processor(folder: Path) -> None:
    """Write a CLIP-style image processor for the tiny tower."""
    config = {
        "image_processor_type": "CLIPImageProcessor",
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
    (folder / "preprocessor_config.json").write_text(json.dumps(config))


def save_llava(folder: Path, model_type: str, tower: str = "clip", **text: object) -> Path:
    """Save a tiny random LLaVA with all its processor files."""
    torch.manual_seed(0)
    # Heads of 32: the smallest that TensorRT fuses an attention for.
    sizes = {"hidden_size": 64, "num_hidden_layers": 3, "num_attention_heads": 2}
    sizes |= {"image_size": IMAGE_SIZE, "patch_size": PATCH_SIZE}
    vision: PretrainedConfig
    if tower == "clip":
        vision = CLIPVisionConfig(intermediate_size=96, **sizes)
    else:
        vision = Dinov2Config(mlp_ratio=2, **sizes)
    config = LlavaConfig(
        vision_config=vision,
        text_config=text_config(model_type, **text),
        image_token_index=256,
        vision_feature_layer=-2,
        tie_word_embeddings=bool(text.get("tie_word_embeddings")),
    )
    model = LlavaForConditionalGeneration(config).eval()
    # The default initialisation gives hidden states near zero and hence near-ties everywhere.
    for parameter in model.model.language_model.parameters():
        parameter.data.mul_(4.0 if parameter.dim() > 1 else 1.0)
    model.save_pretrained(folder)
    save_tokenizer(folder)
    save_image_processor(folder)
    return folder


@pytest.fixture(scope="session")
def ort_session() -> Callable[[Path | bytes], onnxruntime.InferenceSession]:
    """Opens any model in the thread pool of the runner: with it, ONNX Runtime allows no other."""
    OnnxRuntimeRunner().close()

    def open_session(model: Path | bytes) -> onnxruntime.InferenceSession:
        options = onnxruntime.SessionOptions()
        options.use_per_session_threads = False
        source = model if isinstance(model, bytes) else str(model)
        return onnxruntime.InferenceSession(source, options)

    return open_session


@pytest.fixture(scope="session")
def checkpoint_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A tiny checkpoint by kind; made once per run.

    Kinds: `llava-llama` (GQA, CLIP tower), `llava-mistral` (tied head, DINOv2 tower), `llama`
    (a bare language model).
    """
    made: dict[str, Path] = {}

    def make(kind: str) -> Path:
        if kind not in made:
            folder = tmp_path_factory.mktemp("checkpoints") / kind
            if kind == "llava-llama":
                save_llava(folder, "llama")
            elif kind == "llava-mistral":
                save_llava(folder, "mistral", tower="dinov2", tie_word_embeddings=True)
            else:
                torch.manual_seed(1)
                LlamaForCausalLM(text_config("llama")).save_pretrained(folder)
            made[kind] = folder
        return made[kind]

    return make


@pytest.fixture(scope="session")
def bundle_of(
    tmp_path_factory: pytest.TempPathFactory, checkpoint_of: Callable[[str], Path]
) -> Callable[..., Path]:
    """An exported bundle by checkpoint kind and dtype, cut after layers 1 and 3 of 6."""
    made: dict[tuple[str, str], Path] = {}

    def make(kind: str = "llava-llama", dtype: str = "float32") -> Path:
        key = (kind, dtype)
        if key not in made:
            out = tmp_path_factory.mktemp("bundles") / f"{kind}-{dtype}"
            made[key] = export_bundle(
                checkpoint_of(kind), out, schedule=SMALL_SCHEDULE, dtype=dtype
            )
        return made[key]

    return make


@pytest.fixture(scope="session")
def compiled(bundle_of: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A float16 bundle with its TensorRT-RTX engines, built once per run; copy it to damage it."""
    out = tmp_path_factory.mktemp("compiled") / "bundle"
    shutil.copytree(bundle_of("llava-llama", "float16"), out)
    command = ["compile", str(out), "--target", "tensorrt-rtx", "--no-cache"]
    result = CliRunner().invoke(main, command)
    assert result.exit_code == 0, result.output
    return out
