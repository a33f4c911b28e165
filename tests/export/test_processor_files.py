import json
import shutil
from pathlib import Path

import pytest

from sparsevlm_trt.export.processor_files import processor_files
from sparsevlm_trt.runtime.errors import ExportError
from sparsevlm_trt.runtime.tokenizer import Tokenizer


@pytest.fixture
def folder(checkpoint_of, tmp_path):
    return Path(shutil.copytree(checkpoint_of("llava-llama"), tmp_path / "checkpoint"))


def test_files_are_verbatim_but_the_tokenizer(folder):
    files = processor_files(folder, needs_images=True)
    assert {"tokenizer.json", "tokenizer_config.json", "preprocessor_config.json"} <= set(files)
    verbatim = ("chat_template.jinja", "generation_config.json", "preprocessor_config.json")
    for name in verbatim:
        assert files[name] == (folder / name).read_bytes()
    assert not any("safetensors" in name or name == "config.json" for name in files)


def test_the_saved_tokenizer_reads_alike(folder, tmp_path):
    out = tmp_path / "processor"
    out.mkdir()
    for name, content in processor_files(folder, needs_images=True).items():
        (out / name).write_bytes(content)
    text = "Where is <image> it? \u00e4</s>"
    assert Tokenizer.open(out).encode(text) == Tokenizer.open(folder).encode(text)


def test_newer_layouts_nest_the_image_processor(folder):
    path = folder / "preprocessor_config.json"
    image_processor = json.loads(path.read_text())
    (folder / "processor_config.json").write_text(json.dumps({"image_processor": image_processor}))
    path.unlink()
    files = processor_files(folder, needs_images=True)
    assert json.loads(files["preprocessor_config.json"]) == image_processor


def test_a_bare_language_model_needs_none(checkpoint_of):
    files = processor_files(checkpoint_of("llama"), needs_images=False)
    assert set(files) <= {"generation_config.json"}


@pytest.mark.parametrize("name", ["tokenizer.json", "preprocessor_config.json"])
def test_a_vision_language_model_needs_both(folder, name):
    (folder / name).unlink()
    with pytest.raises(ExportError, match=f"no {name}") as caught:
        processor_files(folder, needs_images=True)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", ["", "{", "[]", '{"version": "1.0"}'])
def test_a_damaged_tokenizer_is_one_sentence(folder, content):
    (folder / "tokenizer.json").write_text(content)
    with pytest.raises(ExportError, match="tokenizer") as caught:
        processor_files(folder, needs_images=True)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", ["", "{", "[]"])
def test_a_damaged_processor_config_is_one_sentence(folder, content):
    (folder / "preprocessor_config.json").unlink()
    (folder / "processor_config.json").write_text(content)
    with pytest.raises(ExportError, match="processor_config"):
        processor_files(folder, needs_images=True)
