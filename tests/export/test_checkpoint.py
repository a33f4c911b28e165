import gc
import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from sparsevlm_trt.export import checkpoint as checkpoint_module
from sparsevlm_trt.export.checkpoint import Checkpoint
from sparsevlm_trt.runtime.errors import ExportError


@pytest.fixture
def single(checkpoint_of, tmp_path):
    return Path(shutil.copytree(checkpoint_of("llama"), tmp_path / "single"))


@pytest.fixture
def sharded(single, tmp_path):
    folder = tmp_path / "sharded"
    model = AutoModelForCausalLM.from_pretrained(single)
    model.save_pretrained(folder, max_shard_size="100KB")
    assert len(list(folder.glob("*.safetensors"))) > 2
    return folder


def maps(folder: Path) -> int:
    """How many regions of this process map a file of a folder."""
    return Path("/proc/self/maps").read_text().count(f"{folder}/")


def test_tensors_are_those_stored(single):
    stored = load_file(single / "model.safetensors")
    checkpoint = Checkpoint(single)
    assert checkpoint.names() == sorted(stored)
    assert all(torch.equal(checkpoint.tensor(name), stored[name]) for name in stored)
    assert checkpoint.tensors("layers.1.mlp").keys() == {n for n in stored if "layers.1.mlp" in n}


def test_shards_read_as_one(single, sharded):
    whole, parts = Checkpoint(single), Checkpoint(sharded)
    assert parts.names() == whole.names()
    assert all(torch.equal(parts.tensor(n), whole.tensor(n)) for n in whole.names())


def test_names_of_any_age_resolve(single):
    checkpoint = Checkpoint(single)
    prefixes = ("model.language_model.", "model.")
    assert checkpoint.resolve("norm.weight", prefixes) == "model.norm.weight"
    assert checkpoint.has("norm.weight", prefixes)
    assert not checkpoint.has("norm.weight", ("other.",))
    with pytest.raises(ExportError, match=r"'other\.norm\.weight', 'norm\.weight'"):
        checkpoint.resolve("norm.weight", ("other.", ""))


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="needs Linux's /proc")
def test_nothing_is_mapped_before_it_is_asked_for_nor_after_release(single):
    checkpoint = Checkpoint(single)
    assert maps(single) == 0
    value = checkpoint.tensor("model.norm.weight")
    assert maps(single) > 0
    checkpoint.release()
    del value
    gc.collect()
    assert maps(single) == 0


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="needs Linux's /proc")
def test_mapped_pages_are_let_go_on_the_way(sharded, monkeypatch):
    monkeypatch.setattr(checkpoint_module, "MAPPED_BYTES", 1)
    checkpoint = Checkpoint(sharded)
    most = 0
    for name in checkpoint.names():
        checkpoint.tensor(name).sum()
        most = max(most, maps(sharded))
    monkeypatch.setattr(checkpoint_module, "MAPPED_BYTES", 1 << 40)
    hoarded = 0
    for name in checkpoint.names():
        checkpoint.tensor(name).sum()
        hoarded = max(hoarded, maps(sharded))
    assert most < hoarded


def test_a_tensor_outlives_the_release_of_its_file(single):
    checkpoint = Checkpoint(single)
    value = checkpoint.tensor("model.norm.weight")
    checkpoint.release()
    assert torch.equal(value, load_file(single / "model.safetensors")["model.norm.weight"])


def test_every_shard_is_looked_into_at_once(sharded):
    last = sorted(sharded.glob("*.safetensors"))[-1]
    last.write_bytes(last.read_bytes()[:-10])
    with pytest.raises(ExportError, match=last.name):
        Checkpoint(sharded)


def test_a_shard_without_what_the_index_promises(sharded):
    last = sorted(sharded.glob("*.safetensors"))[-1]
    stored = load_file(last)
    name = sorted(stored)[0]
    del stored[name]
    save_file(stored | {"other": torch.ones(1)}, last)
    with pytest.raises(ExportError, match=rf"no tensor {name} in {last.name}"):
        Checkpoint(sharded)


def test_all_missing_shards_are_named(sharded):
    shards = sorted(sharded.glob("*.safetensors"))
    shards[0].unlink()
    shards[1].unlink()
    with pytest.raises(ExportError, match=f"{shards[0].name}, {shards[1].name}"):
        Checkpoint(sharded)


@pytest.mark.parametrize("text", ["{", "[]", '{"weight_map": [1]}', "{}"])
def test_a_damaged_index_is_named(sharded, text):
    (sharded / "model.safetensors.index.json").write_text(text)
    with pytest.raises(ExportError, match=r"model\.safetensors\.index\.json"):
        Checkpoint(sharded)


@pytest.mark.parametrize(
    "changes",
    [
        {"hidden_size": "wide"},
        {"hidden_size": None},
        {"num_attention_heads": 5, "head_dim": None},
        {"num_attention_heads": 0, "head_dim": None},
        {"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e4}},
        {"model_type": "no_such_model"},
    ],
)
def test_a_config_that_transformers_refuses_is_one_sentence(single, changes):
    path = single / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    with pytest.raises(ExportError, match=r"config\.json: \S") as caught:
        Checkpoint(single)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"{}", b"\xff\xfe\x00"])
def test_a_config_that_is_none(single, content):
    (single / "config.json").write_bytes(content)
    with pytest.raises(ExportError, match=r"config\.json"):
        Checkpoint(single)
