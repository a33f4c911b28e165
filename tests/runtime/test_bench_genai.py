"""OpenVINO GenAI beside ours: what it is asked, and what is said where it cannot be."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from sparsevlm_trt.runtime.bench.case import Case
from sparsevlm_trt.runtime.bench.genai import GenAiContender
from sparsevlm_trt.runtime.cli import main
from sparsevlm_trt.runtime.errors import InputError

CASE = Case("openvino-genai", "none", None)


class Pipeline:
    """Stands for GenAI's, which takes times of its own."""

    def __init__(self, folder, device, **settings):
        if "refused" in folder:
            raise RuntimeError("somewhere.cpp:1:\nunsupported model type")
        self.opened = (folder, device, settings)
        self.asked = []

    def get_generation_config(self):
        return SimpleNamespace(max_new_tokens=20, ignore_eos=False)

    def generate(self, prompt, *, images, generation_config):
        self.asked.append((prompt, images, generation_config))
        values = {"ttft": 300.0, "prepare_embeddings_duration": 80.0, "tpot": 20.0}
        metrics = {
            f"get_{name}": (lambda mean=mean: SimpleNamespace(mean=mean))
            for name, mean in values.items()
        }
        return SimpleNamespace(
            perf_metrics=SimpleNamespace(**metrics, get_num_input_tokens=lambda: 591)
        )


@pytest.fixture
def genai(monkeypatch):
    monkeypatch.setitem(sys.modules, "openvino_genai", SimpleNamespace(VLMPipeline=Pipeline))


@pytest.fixture
def picture(tmp_path):
    path = tmp_path / "red.png"
    Image.new("RGB", (6, 7), "red").save(path)
    return path


def folder_of(tmp_path, name="model"):
    folder = tmp_path / name
    folder.mkdir()
    (folder / "openvino_language_model.xml").write_text("<net/>")
    return folder


def test_it_is_asked_the_same_and_its_times_are_split(genai, tmp_path, picture):
    folder = folder_of(tmp_path)
    contender = GenAiContender(folder, picture, "What is it?", threads=3)
    sample = contender.sample(CASE, 16)
    assert (sample["first_token_ms"], sample["vision_ms"], sample["language_ms"]) == (300, 80, 220)
    assert (sample["decode_ms"], sample["tokens_per_s"], sample["num_tokens"]) == (20, 50, 591)
    pipeline = contender._pipeline
    assert pipeline.opened == (str(folder), "CPU", {"INFERENCE_NUM_THREADS": 3})
    ((prompt, (image,), config),) = pipeline.asked
    assert (prompt, config.max_new_tokens, config.ignore_eos) == ("What is it?", 17, True)
    assert np.array_equal(image.data, np.full((1, 7, 6, 3), (255, 0, 0), np.uint8))


def test_a_model_that_the_pipeline_refuses(genai, tmp_path, picture):
    with pytest.raises(InputError, match=r"unsupported model type \| expected a model that"):
        GenAiContender(folder_of(tmp_path, "refused"), picture, "What?", threads=1)


def test_a_folder_of_something_else(genai, tmp_path, picture):
    with pytest.raises(InputError, match=r"no openvino_language_model\.xml"):
        GenAiContender(tmp_path, picture, "What?", threads=1)


def test_without_the_package(monkeypatch, tmp_path, picture):
    monkeypatch.setitem(sys.modules, "openvino_genai", None)
    with pytest.raises(InputError, match="pip install openvino-genai"):
        GenAiContender(folder_of(tmp_path), picture, "What?", threads=1)


def test_it_needs_a_picture(bundle_of, tmp_path):
    command = ["bench", str(bundle_of()), "--shape", "4x4", "--genai", str(tmp_path)]
    result = CliRunner().invoke(main, command)
    assert result.exit_code == 2
    assert "name an --image" in result.output
