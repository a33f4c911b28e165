"""A checkpoint that cannot be exported: one sentence, and nothing left behind."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from sparsevlm_trt.export import export_bundle
from sparsevlm_trt.runtime.errors import ExportError, PlanError, SparseVLMError

Edit = Callable[[Path], object]
WEIGHTS = "model.safetensors"
LAYER = "model.layers.0.mlp.up_proj.weight"


def delete(name: str) -> Edit:
    return lambda folder: (folder / name).unlink()


def write(name: str, content: bytes) -> Edit:
    return lambda folder: (folder / name).write_bytes(content)


def cut(name: str, num_bytes: int) -> Edit:
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:-num_bytes])


def config(part: str | None = None, **changes: Any) -> Edit:
    def edit(folder: Path) -> None:
        path = folder / "config.json"
        content = json.loads(path.read_text())
        (content[part] if part else content).update(changes)
        path.write_text(json.dumps(content))

    return edit


def tensors(edit: Callable[[dict[str, torch.Tensor]], object]) -> Edit:
    def apply(folder: Path) -> None:
        stored = load_file(folder / WEIGHTS)
        edit(stored)
        save_file(stored, folder / WEIGHTS, metadata={"format": "pt"})

    return apply


def shard(edit: Callable[[list[Path]], object]) -> Edit:
    def apply(folder: Path) -> None:
        model = AutoModelForCausalLM.from_pretrained(folder)
        (folder / WEIGHTS).unlink()
        model.save_pretrained(folder, max_shard_size="100KB")
        edit(sorted(folder.glob("*.safetensors")))

    return apply


def replace(name: str, value: torch.Tensor) -> Edit:
    return tensors(lambda stored: stored.update({name: value}))


# (what is wrong, kind of checkpoint, edit, what the sentence tells)
CASES: list[tuple[str, str, Edit, str]] = [
    ("no folder", "llama", shutil.rmtree, "no such folder"),
    ("no config", "llama", delete("config.json"), "no config.json"),
    ("config is no JSON", "llama", write("config.json", b"{oops"), "config.json"),
    ("config of nothing", "llama", write("config.json", b"{}"), "model_type"),
    ("ill-typed config", "llama", config(hidden_size="wide"), "hidden_size"),
    ("unknown model", "llama", config(model_type="no_such"), "no_such"),
    ("unsupported model", "llama", config(model_type="bert"), "llama, llava, llava_next"),
    (
        "LLaVA's own layout",
        "llama",
        config(model_type="llava_llama", architectures=["LlavaLlamaForCausalLM"]),
        "llava-hf/llava-1.5-7b-hf",
    ),
    (
        "LLaVA's own layout under a known type",
        "llama",
        config(model_type="llava", architectures=None, mm_vision_tower="openai/clip"),
        "huggingface.co/llava-hf",
    ),
    (
        "unsupported language model",
        "llava-llama",
        config("text_config", model_type="gemma"),
        "'gemma'",
    ),
    (
        "rotary",
        "llama",
        config(rope_parameters={"rope_type": "dynamic", "factor": 2.0}),
        "dynamic",
    ),
    ("activation", "llama", config(hidden_act="relu"), "relu"),
    ("heads", "llama", config(num_key_value_heads=3), "3 key heads"),
    ("no weights", "llama", delete(WEIGHTS), "no model.safetensors"),
    ("weights cut short", "llama", cut(WEIGHTS, 100), "truncated"),
    ("weights are none", "llama", write(WEIGHTS, b"not a tensor in here"), "intact"),
    ("empty weights", "llama", write(WEIGHTS, b""), "intact"),
    ("missing shard", "llama", shard(lambda files: files[-1].unlink()), "finish the download"),
    (
        "shard cut short",
        "llama",
        shard(lambda files: files[-1].write_bytes(files[-1].read_bytes()[:-1])),
        "truncated",
    ),
    (
        "damaged index",
        "llama",
        write("model.safetensors.index.json", b"[]"),
        "model.safetensors.index.json",
    ),
    ("no head", "llama", tensors(lambda stored: stored.pop("lm_head.weight")), "lm_head.weight"),
    ("missing tensor", "llama", tensors(lambda stored: stored.pop(LAYER)), LAYER),
    ("another shape", "llama", replace(LAYER, torch.zeros(96, 63)), r"\[63, 96\]"),
    (
        "another vocabulary",
        "llama",
        replace("model.embed_tokens.weight", torch.zeros(299, 64)),
        r"\[299, 64\]",
    ),
    (
        "class token kept",
        "llava-llama",
        config(vision_feature_select_strategy="full"),
        "'full'",
    ),
    ("no such vision layer", "llava-llama", config(vision_feature_layer=-9), "-9"),
    (
        "another patch size",
        "llava-llama",
        config("vision_config", patch_size=7),
        "patch_embedding",
    ),
    (
        "missing vision tensor",
        "llava-llama",
        tensors(lambda stored: stored.pop(next(n for n in stored if "linear_1.bias" in n))),
        "linear_1.bias",
    ),
    ("no tokenizer", "llava-llama", delete("tokenizer.json"), "no tokenizer.json"),
    ("no image processor", "llava-llama", delete("preprocessor_config.json"), "preprocessor"),
    ("damaged tokenizer", "llava-llama", write("tokenizer.json", b"{"), "tokenizer"),
]


def refuse(checkpoint: Path, out: Path, told: str, **options: Any) -> SparseVLMError:
    """Export, and see one sentence and no file."""
    out.parent.mkdir()
    with pytest.raises(SparseVLMError, match=told) as caught:
        export_bundle(checkpoint, out, **{"schedule": {0: 5}} | options)
    sentence = str(caught.value)
    assert "\n" not in sentence
    assert sentence.count(" | ") >= 2, sentence
    assert list(out.parent.iterdir()) == []
    return caught.value


@pytest.mark.parametrize(
    ("kind", "edit", "told"), [case[1:] for case in CASES], ids=[case[0] for case in CASES]
)
def test_a_bad_checkpoint_is_one_sentence(checkpoint_of, tmp_path, kind, edit, told):
    checkpoint = Path(shutil.copytree(checkpoint_of(kind), tmp_path / "checkpoint"))
    edit(checkpoint)
    assert isinstance(refuse(checkpoint, tmp_path / "out" / "bundle", told), ExportError)


@pytest.mark.parametrize("kind", ["llama", "llava-llama"])
def test_numbers_beyond_float16_are_refused(checkpoint_of, tmp_path, kind):
    checkpoint = Path(shutil.copytree(checkpoint_of(kind), tmp_path / "checkpoint"))
    name = {"llama": "embed_tokens", "llava-llama": "linear_1.weight"}[kind]

    def enlarge(stored: dict[str, torch.Tensor]) -> None:
        stored[next(n for n in stored if name in n)][0, 0] = 70000.0

    tensors(enlarge)(checkpoint)
    refuse(checkpoint, tmp_path / "out" / "bundle", name, dtype="float16")


@pytest.mark.parametrize(
    ("options", "kind", "told"),
    [
        ({"dtype": "bfloat16"}, ExportError, "float32, float16"),
        ({"opset": 22}, ExportError, "23, 24"),
        ({"opset": 25}, ExportError, "23, 24"),
        ({"method": "magic"}, PlanError, "sparsevlm"),
        ({"schedule": None, "budget": 0}, PlanError, "got 0"),
        ({"schedule": None, "budget": -1}, PlanError, "got -1"),
        ({"schedule": {5: 3}}, PlanError, "layers 0 to 4"),
        ({"schedule": {1: 3}, "boundaries": [2]}, PlanError, r"\[2\]"),
    ],
)
def test_what_cannot_be_asked_for_is_one_sentence(checkpoint_of, tmp_path, options, kind, told):
    error = refuse(checkpoint_of("llama"), tmp_path / "out" / "bundle", told, **options)
    assert isinstance(error, kind)


def test_an_interrupt_leaves_nothing(checkpoint_of, tmp_path):
    def interrupt(name: str, number: int, total: int) -> None:
        if name == "raters":
            raise KeyboardInterrupt

    out = tmp_path / "out"
    out.mkdir()
    with pytest.raises(KeyboardInterrupt):
        export_bundle(checkpoint_of("llama"), out / "b", schedule={0: 5}, progress=interrupt)
    assert list(out.iterdir()) == []
