"""`sparsevlm look` on a tiny bundle: the file, the answer, refusals."""

from __future__ import annotations

import json

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from sparsevlm_trt.runtime import Session
from sparsevlm_trt.runtime.cli import main
from sparsevlm_trt.runtime.errors import InputError
from sparsevlm_trt.runtime.patch_map import PatchState, num_images, patch_map

QUESTION = "what is it"


@pytest.fixture(scope="module")
def image(tmp_path_factory):
    path = tmp_path_factory.mktemp("images") / "noise.png"
    pixels = np.random.default_rng(0).integers(0, 255, (80, 90, 3), np.uint8)
    Image.fromarray(pixels).save(path)
    return path


@pytest.fixture
def invoke(bundle_of, image, tmp_path, monkeypatch):
    """`sparsevlm look BUNDLE IMAGE QUESTION ...`, in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    command = ["look", str(bundle_of()), str(image), QUESTION, "--max-new-tokens", "3"]
    return lambda *args: CliRunner().invoke(main, [*command, *map(str, args)])


def test_a_strip_is_written_and_the_answer_told(invoke, tmp_path):
    result = invoke()
    assert result.exit_code == 0, result.stderr
    assert len(result.stdout.splitlines()) >= 1
    assert result.stderr == "noise.look.png | visual tokens 16 > 10 > 6\n"
    with Image.open(tmp_path / "noise.look.png") as strip:
        assert strip.width == 3 * 336 + 4 * 18
        assert strip.height > 2 * 336


def test_a_page_tells_every_patch(invoke, tmp_path):
    assert invoke("--out", "page.HTML").exit_code == 0
    text = (tmp_path / "page.HTML").read_text(encoding="utf-8")
    assert QUESTION in text
    assert text.count("<rect ") == 2 * (16 + 9)  # overlay and scores of each step


def test_json_names_the_file(invoke):
    result = invoke("--json", "--schedule", "3:4", "--out", "a.png")
    found = json.loads(result.stdout)
    assert found["file"] == "a.png"
    assert [stage["layer"] for stage in found["trace"]["stages"]] == [3]
    assert result.stderr == ""


def test_an_unpruned_answer_is_one_picture(invoke, tmp_path):
    assert invoke("--method", "none").exit_code == 0
    with Image.open(tmp_path / "noise.look.png") as strip:
        assert strip.height < 2 * 336


def test_one_more_image(invoke, image):
    result = invoke("--image", image)
    assert result.exit_code == 0, result.stderr


@pytest.mark.parametrize(
    ("args", "code", "told"),
    [
        (["--out", "picture.jpg"], 2, ".png or .html"),
        (["--out", "IMAGE"], 2, "the image itself"),
        (["--out", "nowhere/a.png"], 1, "folder that does not exist"),
        (["--image", "nothing.png"], 1, "nothing.png"),
        (["--budget", "192", "--schedule", "1:9"], 2, "not both"),
        (["--schedule", "2:5"], 1, "boundaries: 1, 3"),
    ],
)
def test_refusals(invoke, image, tmp_path, args, code, told):
    before = image.read_bytes()
    result = invoke(*(image if arg == "IMAGE" else arg for arg in args))
    assert result.exit_code == code
    assert told in result.stderr
    assert result.stdout == ""
    assert not list(tmp_path.iterdir())
    assert image.read_bytes() == before


def test_a_file_that_cannot_be_written(invoke, tmp_path):
    (tmp_path / "a.png").mkdir()
    result = invoke("--out", "a.png")
    assert result.exit_code == 1
    assert "can be written" in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_a_bundle_without_vision(bundle_of, image, tmp_path):
    out = tmp_path / "a.png"
    command = ["look", str(bundle_of("llama")), str(image), QUESTION, "--out", str(out)]
    result = CliRunner().invoke(main, command)
    assert result.exit_code == 1
    assert "no vision graph" in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert not out.exists()


def test_a_session_gives_traces_that_know_their_crop(bundle_of):
    noise = np.random.default_rng(0).integers(0, 255, (80, 130, 3), np.uint8)
    with Session.load(bundle_of()) as session:
        images = [noise, noise[:, ::-1]]
        result = session.generate(images=images, prompt="<image><image> what?", max_new_tokens=2)
        alone = session.generate(images=noise, prompt="<image> what?", max_new_tokens=2)
        text = session.generate(prompt="what?", max_new_tokens=2)
        (seen,) = session.processor.images.seen(noise)
    assert num_images(result.trace) == 2
    overlay = np.asarray(alone.trace.overlay(noise, 0))
    kept = np.repeat(np.repeat(patch_map(alone.trace, 0).states == PatchState.KEPT, 84, 0), 84, 1)
    expected = np.asarray(seen.resize((336, 336), Image.Resampling.NEAREST))
    clear = kept & ~(overlay == 255).all(axis=-1)
    assert clear.sum() > 0.8 * kept.sum()
    assert np.array_equal(overlay[clear], expected[clear])
    assert result.trace.strip(images).height > alone.trace.strip(noise).height
    with pytest.raises(InputError, match="without visual tokens"):
        text.trace.strip(noise)
