"""Whatever cannot be an image is answered with one sentence."""

import numpy as np
import pytest
from PIL import Image

from sparsevlm_trt.runtime.errors import InputError
from sparsevlm_trt.runtime.image_loader import load_image


def refused(source, match, **options):
    with pytest.raises(InputError, match=match) as caught:
        load_image(source, **options)
    assert str(caught.value).count(" | ") == 3
    assert "\n" not in str(caught.value)


def test_a_missing_path_is_refused(tmp_path):
    refused(tmp_path / "none.png", "No such file")
    refused(tmp_path, "Is a directory")
    refused("a\0b.png", "null byte")


def test_a_file_that_is_no_image_is_refused(tmp_path):
    path = tmp_path / "notes.png"
    path.write_text("not an image")
    refused(path, "cannot identify image file")
    path.write_bytes(b"")
    refused(path, "cannot identify image file")


@pytest.mark.parametrize("suffix", ["png", "jpg", "gif", "webp", "tiff", "bmp"])
def test_a_truncated_file_is_refused(tmp_path, suffix):
    path = tmp_path / f"image.{suffix}"
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    refused(path, "image")


def test_a_lazily_opened_truncated_image_is_refused(tmp_path):
    path = tmp_path / "image.png"
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    path.write_bytes(path.read_bytes()[:6000])
    with Image.open(path) as image:
        refused(image, "mode RGB")


def test_a_decompression_bomb_is_refused(tmp_path, monkeypatch):
    path = tmp_path / "bomb.png"
    Image.new("RGB", (64, 64)).save(path)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 64 * 64 // 2 - 1)
    refused(path, "expected at most 4094")


def test_an_empty_image_is_refused():
    refused(Image.new("RGB", (0, 4)), "0x4")
    refused(np.zeros((5, 0, 3), np.uint8), "0x5")


@pytest.mark.parametrize(
    "array",
    [np.zeros((5, 5, 3), np.float32), np.zeros((5, 5, 2), np.uint8), np.zeros(4, np.uint8)],
)
def test_an_array_of_another_kind_is_refused(array):
    refused(array, "expected uint8")


def test_an_array_that_reads_both_ways_is_refused():
    refused(np.zeros((1, 5, 3), np.uint8), "reads both ways")


@pytest.mark.parametrize("source", [7, None, b"bytes", [1]])
def test_another_type_is_refused(source):
    refused(source, "expected a path, a Pillow image or a uint8 array")


def test_without_conversion_other_modes_are_refused():
    refused(Image.new("L", (4, 4)), "mode L", convert_rgb=False)
    refused(np.zeros((4, 5, 4), np.uint8), "4 channels", convert_rgb=False)
