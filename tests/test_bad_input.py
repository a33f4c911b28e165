"""Everything a user can get wrong, through the command line: one sentence, nothing half-written.

The readers and writers have their own tests; this is the list a user meets.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from PIL import Image

from sparsevlm_trt.runtime.cli import main

QUESTION = "what is it"


def sparsevlm(*args: object) -> Result:
    return CliRunner().invoke(main, [str(arg) for arg in args])


def assert_refused(result: Result, *words: str) -> None:
    """One sentence of the four parts on stderr, a non-zero exit, no answer, no traceback."""
    assert result.exit_code in (1, 2), result.output
    assert result.stdout == ""
    assert "Traceback" not in result.stderr
    for word in words:
        assert word in result.stderr
    if result.exit_code == 1:
        assert len(result.stderr.strip().splitlines()) == 1
        assert result.stderr.count(" | ") >= 2


def left_over(folder: Path) -> list[str]:
    """What lies in a folder, hidden files too."""
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def bundle(bundle_of, tmp_path) -> Path:
    """A copy to damage."""
    return Path(shutil.copytree(bundle_of(), tmp_path / "bundle"))


@pytest.fixture
def checkpoint(checkpoint_of, tmp_path) -> Path:
    """A copy to damage."""
    return Path(shutil.copytree(checkpoint_of("llava-llama"), tmp_path / "checkpoint"))


@pytest.fixture
def image(tmp_path) -> Path:
    path = tmp_path / "image.png"
    Image.new("RGB", (64, 64), "red").save(path)
    return path


def edit_manifest(bundle: Path, change) -> None:
    path = bundle / "bundle.json"
    manifest = json.loads(path.read_text())
    change(manifest)
    path.write_text(json.dumps(manifest))


def test_missing_bundle(tmp_path):
    assert_refused(sparsevlm("run", tmp_path / "none", QUESTION), "none")


def test_missing_image(bundle, tmp_path):
    assert_refused(sparsevlm("run", bundle, QUESTION, "--image", tmp_path / "no.png"), "no.png")


def test_missing_checkpoint(tmp_path):
    out = tmp_path / "out"
    assert_refused(sparsevlm("export", tmp_path / "none", out), "none")
    assert left_over(tmp_path) == []


def test_truncated_weights_of_a_checkpoint(checkpoint, tmp_path):
    weights = checkpoint / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    result = sparsevlm("export", checkpoint, tmp_path / "out", "--schedule", "1:9,3:5")
    assert_refused(result, "model.safetensors", "truncated or damaged")
    assert left_over(tmp_path) == ["checkpoint"]


def test_truncated_weight_of_a_bundle(bundle):
    weight = max(bundle.glob("graphs/*.onnx"), key=lambda path: path.stat().st_size)
    weight.write_bytes(weight.read_bytes()[:-10])
    assert_refused(sparsevlm("run", bundle, QUESTION), weight.name)


def test_changed_byte(bundle):
    graph = bundle / "graphs" / "stage_1.onnx"
    content = bytearray(graph.read_bytes())
    content[len(content) // 2] ^= 1
    graph.write_bytes(content)
    assert_refused(sparsevlm("run", bundle, QUESTION), "stage_1.onnx")


def test_manifest_with_an_escaping_path(bundle):
    def escape(manifest):
        manifest["graphs"]["embed"]["file"] = "../embed.onnx"

    edit_manifest(bundle, escape)
    assert_refused(sparsevlm("run", bundle, QUESTION), "../embed.onnx")


def test_unsupported_model_type(checkpoint, tmp_path):
    config = checkpoint / "config.json"
    config.write_text(json.dumps({"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"]}))
    result = sparsevlm("export", checkpoint, tmp_path / "out")
    assert_refused(result, "gpt2", "llava")
    assert left_over(tmp_path) == ["checkpoint"]


def test_image_that_is_not_one(bundle, tmp_path):
    path = tmp_path / "image.png"
    path.write_text("no pixels here")
    assert_refused(sparsevlm("run", bundle, QUESTION, "--image", path), "image.png")


def test_prompt_without_the_image_placeholder(bundle, image):
    result = sparsevlm("run", bundle, "no place", "--image", image, "--raw-prompt")
    assert_refused(result, "0 image placeholders and 1 images", "<image>")


@pytest.mark.parametrize("budget", ["0", "-1", "1.5", "many"])
def test_impossible_budget(bundle, image, budget):
    result = sparsevlm("run", bundle, QUESTION, "--image", image, f"--budget={budget}")
    assert_refused(result, budget)


def test_schedule_naming_no_boundary(bundle, image):
    result = sparsevlm("run", bundle, QUESTION, "--image", image, "--schedule", "2:9")
    assert_refused(result, "2", "1, 3")


@pytest.mark.parametrize("schedule", ["", "1", "1:0", "3:5,1:9", "1:x"])
def test_schedule_that_is_none(bundle, image, schedule):
    result = sparsevlm("run", bundle, QUESTION, "--image", image, f"--schedule={schedule}")
    assert_refused(result, "schedule")


def test_full_disk(checkpoint, tmp_path):
    # A limit on the size of any file stands for the disk: writes fail half-way either way.
    code = (
        "import resource, signal, sys;"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000));"
        "from sparsevlm_trt.runtime.cli import main; main(sys.argv[1:])"
    )
    command = [sys.executable, "-c", code, "export", str(checkpoint), str(tmp_path / "out")]
    done = subprocess.run(
        [*command, "--schedule", "1:9,3:5"], check=False, capture_output=True, text=True
    )
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert done.stderr.count(" | ") >= 2
    assert left_over(tmp_path) == ["checkpoint"]


def test_taken_place(checkpoint, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "letter.txt").write_text("mine")
    assert_refused(sparsevlm("export", checkpoint, tmp_path / "out", "--overwrite"), "out")
    assert left_over(tmp_path / "out") == ["letter.txt"]
