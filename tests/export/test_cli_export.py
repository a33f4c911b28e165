"""`sparsevlm export` and `sparsevlm demo` on a tiny checkpoint: one export serves all tests."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from sparsevlm_trt.runtime import Bundle
from sparsevlm_trt.runtime.cli import main

PROGRAM = [sys.executable, "-m", "sparsevlm_trt.runtime.cli"]


def invoke(*args):
    return CliRunner().invoke(main, [str(arg) for arg in args])


@pytest.fixture(scope="module")
def workdir(tmp_path_factory, checkpoint_of):
    """A demo's folder, with the bundle that `export` made and a sample."""
    folder = tmp_path_factory.mktemp("demo")
    sample = folder / "sample"
    sample.mkdir()
    pixels = np.random.default_rng(0).integers(0, 255, (60, 60, 3), np.uint8)
    Image.fromarray(pixels).save(sample / "scene.png")
    questions = [{"question": "what is it", "answers": ["noise"]}, {"question": "why"}]
    (sample / "questions.json").write_text(json.dumps(questions))
    return folder


@pytest.fixture(scope="module")
def exported(workdir, checkpoint_of):
    """The finished export, as a program that writes JSON."""
    out = workdir / "bundle-float32"
    args = [checkpoint_of("llava-llama"), out, "--budget", "8", "--boundaries", "0,2", "--json"]
    done = subprocess.run(
        [*PROGRAM, "export", *args], capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 0, done.stderr
    return done


def test_export_writes_a_bundle_as_asked(exported, workdir):
    plan = Bundle.open(workdir / "bundle-float32").manifest.plan
    assert (plan.method, plan.budget, plan.boundaries) == ("sparsevlm", 8, (0, 2))
    assert list(plan.schedule) == [0, 2]


def test_json_stands_alone_on_stdout(exported, workdir):
    found = json.loads(exported.stdout)
    assert found["bundle"] == str(workdir / "bundle-float32")
    assert [stage["stop"] for stage in found["stages"]] == [1, 3, 6]
    seen = [stage["num_visual"] for stage in found["cost"]["stages"]]
    assert seen == sorted(seen, reverse=True)
    assert found["cost"]["nominal_average_visual_tokens"] == pytest.approx(8, abs=0.2)


def test_progress_names_every_graph_on_stderr(exported):
    lines = [line for line in exported.stderr.splitlines() if line.startswith("exporting ")]
    names = [line.partition(": ")[2] for line in lines]
    stages = ["stage_0", "stage_1", "stage_2"]
    prunes = ["prune_recycle", "prune_keep", "prune_pool"]  # one for each step, not each method
    judges = ["rater_rows", "rank", "gravity"]
    assert names == ["vision", "embed", "raters", *stages, *judges, *prunes, "head"]
    assert lines[0].startswith("exporting 1/13")
    assert "Traceback" not in exported.stderr


def test_an_existing_bundle_is_kept(exported, workdir, checkpoint_of):
    before = (workdir / "bundle-float32/bundle.json").read_bytes()
    result = invoke("export", checkpoint_of("llava-llama"), workdir / "bundle-float32")
    assert result.exit_code == 1
    assert (workdir / "bundle-float32/bundle.json").read_bytes() == before


@pytest.mark.parametrize(
    ("args", "told"),
    [
        (["--budget", "0"], "a whole number of tokens"),
        (["--schedule", "1:2,99:1"], "6-layer model"),
        (["--schedule", "1:9", "--boundaries", "3"], "boundaries"),
    ],
)
def test_refusals_are_one_sentence_and_leave_nothing(checkpoint_of, tmp_path, args, told):
    result = invoke("export", checkpoint_of("llava-llama"), tmp_path / "out", *args)
    assert result.exit_code == 1
    assert told in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_a_missing_checkpoint(tmp_path):
    result = invoke("export", tmp_path / "none", tmp_path / "out")
    assert result.exit_code == 1
    assert "no such folder" in result.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "args",
    [
        ["--budget", "64", "--schedule", "1:2"],
        ["--boundaries", "a,b"],
        ["--dtype", "float8"],
        ["--opset", "9"],
        [],
    ],
)
def test_wrong_usage(args):
    assert invoke("export", "checkpoint", *(["out", *args] if args else [])).exit_code == 2


def test_an_interrupt_leaves_nothing(checkpoint_of, tmp_path):
    process = subprocess.Popen(
        [*PROGRAM, "export", checkpoint_of("llava-llama"), tmp_path / "out", "--schedule", "1:9"],
        stderr=subprocess.PIPE,
        text=True,
        # A shell starts what runs in the background deaf to it, and this test with it.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert process.stderr is not None
    first = process.stderr.readline()
    while first and "vision" not in first:
        first = process.stderr.readline()
    process.send_signal(signal.SIGINT)
    rest = process.stderr.read()
    assert process.wait(60) == 130
    assert "Traceback" not in rest
    assert rest.splitlines()[-1] == "Interrupted."
    assert list(tmp_path.iterdir()) == []


def demo(workdir, checkpoint, *args):
    return invoke(
        "demo",
        "--checkpoint",
        checkpoint,
        "--workdir",
        workdir,
        "--sample",
        workdir / "sample",
        *args,
    )


def test_the_demo_answers_every_question_at_every_budget(exported, workdir, checkpoint_of):
    result = demo(workdir, checkpoint_of("llava-llama"), "--json")
    assert result.exit_code == 0, result.stderr
    found = json.loads(result.stdout)
    asked = [(answer["question"], answer["budget"]) for answer in found["answers"]]
    assert asked == [(q, b) for q in ("what is it", "why") for b in (None, 192, 64)]
    assert found["answers"][0]["expected"] == "noise"
    for answer in found["answers"]:
        assert 0 < answer["language_ms"] < answer["total_ms"]
        assert answer["visual_tokens"][0] == 16
    assert found["parity"]["passed"]
    assert "exporting" not in result.stderr  # the bundle was there


def test_the_demo_ends_with_the_parity_line(exported, workdir, checkpoint_of):
    result = demo(workdir, checkpoint_of("llava-llama"))
    assert result.exit_code == 0, result.stderr
    assert "unpruned" in result.stdout
    assert result.stdout.splitlines()[-1].startswith("parity passed: ")


def test_the_demo_wants_its_checkpoint(workdir, tmp_path):
    result = demo(workdir, tmp_path / "none")
    assert result.exit_code == 1
    assert "build_checkpoint.py" in result.stderr


@pytest.mark.parametrize("content", ["[]", "{}", "[{}]", "nonsense", None])
def test_the_demo_wants_its_questions(tmp_path, content):
    if content is not None:
        (tmp_path / "questions.json").write_text(content)
    result = invoke("demo", "--sample", tmp_path, "--workdir", tmp_path)
    assert result.exit_code == 1
    assert "questions.json" in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_a_newer_checkpoint_would_be_exported_again(exported, workdir, checkpoint_of, monkeypatch):
    from sparsevlm_trt.export import demo as module
    from sparsevlm_trt.export import exporter

    calls = []
    monkeypatch.setattr(exporter, "export_bundle", lambda *args, **options: calls.append(options))
    checkpoint, bundle = checkpoint_of("llava-llama"), workdir / "bundle-float32"
    assert not module.ensure_bundle(checkpoint, bundle, "float32", None)
    config, old = checkpoint / "config.json", (checkpoint / "config.json").stat()
    newer = (bundle / "bundle.json").stat().st_mtime + 10
    os.utime(config, (newer, newer))
    try:
        assert module.ensure_bundle(checkpoint, bundle, "float32", None)
    finally:
        os.utime(config, (old.st_atime, old.st_mtime))
    assert calls[0]["overwrite"]
