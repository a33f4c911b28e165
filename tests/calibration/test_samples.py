"""Data that would mislead a calibration is refused, or told."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sparsevlm_trt.calibration.collect import check_activations
from sparsevlm_trt.calibration.samples import read_samples
from sparsevlm_trt.calibration.statistics import Statistics
from sparsevlm_trt.runtime.errors import InputError


def write(folder: Path, images: list[np.ndarray]) -> Path:
    lines = []
    for number, pixels in enumerate(images):
        Image.fromarray(pixels).save(folder / f"{number}.png")
        lines.append({"image": f"{number}.png", "question": "What?", "answers": ["x"]})
    path = folder / "questions.jsonl"
    path.write_text("\n".join(map(json.dumps, lines)))
    return path


def noise(count: int) -> list[np.ndarray]:
    random = np.random.default_rng(1)
    return [random.integers(0, 256, (20, 20, 3), dtype=np.uint8) for _ in range(count)]


def test_good_data_is_taken_without_a_word(tmp_path):
    assert read_samples(write(tmp_path, noise(8))).warnings == ()


def test_an_empty_file_is_refused(tmp_path):
    (tmp_path / "questions.jsonl").write_text("")
    with pytest.raises(InputError, match="no question"):
        read_samples(tmp_path / "questions.jsonl")


def test_one_sample_is_refused(tmp_path):
    with pytest.raises(InputError, match="expected 2 or more"):
        read_samples(write(tmp_path, noise(1)))


def test_few_images_are_warned_of(tmp_path):
    (warning,) = read_samples(write(tmp_path, noise(3))).warnings
    assert "3 different images" in warning


def test_images_of_one_colour_are_refused_if_all_are(tmp_path):
    flat = [np.full((20, 20, 3), value, np.uint8) for value in range(8)]
    with pytest.raises(InputError, match="one colour"):
        read_samples(write(tmp_path, flat))


def test_some_images_of_one_colour_are_warned_of(tmp_path):
    images = [*noise(8), np.zeros((20, 20, 3), np.uint8)]
    (warning,) = read_samples(write(tmp_path, images)).warnings
    assert "1 of 9 images" in warning


def test_a_file_that_is_no_image_is_refused(tmp_path):
    path = write(tmp_path, noise(2))
    (tmp_path / "1.png").write_text("no image")
    with pytest.raises(InputError):
        read_samples(path)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_activations_that_are_no_numbers_are_refused_by_name(value):
    seen = Statistics(4, moments=False)
    rows = np.ones((3, 4), np.float32)
    rows[1, 2] = value
    seen.add(rows)
    with pytest.raises(InputError, match=r"stage_0/layers\.0/MatMul \(1 rows\)"):
        check_activations({"stage_0/layers.0/MatMul": seen})


def test_activations_that_are_always_zero_are_refused():
    seen = Statistics(4, moments=False)
    seen.add(np.zeros((3, 4), np.float32))
    with pytest.raises(InputError, match="only zeros"):
        check_activations({"vision/fc": seen})
