"""`sparsevlm run` on a tiny bundle: streams, numbers, JSON, refusals."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from sparsevlm_trt.runtime import Session
from sparsevlm_trt.runtime.cli import main

QUESTION = "what is it"


@pytest.fixture(scope="module")
def image(tmp_path_factory):
    path = tmp_path_factory.mktemp("images") / "noise.png"
    pixels = np.random.default_rng(0).integers(0, 255, (80, 90, 3), np.uint8)
    Image.fromarray(pixels).save(path)
    return path


@pytest.fixture
def invoke(bundle_of):
    """`sparsevlm run BUNDLE ...`."""
    return lambda *args: CliRunner().invoke(main, ["run", str(bundle_of()), *map(str, args)])


def test_the_answer_goes_to_stdout_and_the_numbers_to_stderr(invoke, bundle_of, image):
    result = invoke(QUESTION, "--image", image, "--max-new-tokens", 6)
    assert result.exit_code == 0, result.stderr
    content = [{"type": "image"}, {"type": "text", "text": QUESTION}]
    with Session.load(bundle_of()) as session:
        answer = session.generate(
            images=[image], messages=[{"role": "user", "content": content}], max_new_tokens=6
        )
    assert result.stdout == f"{answer.text}\n"
    assert "visual tokens 16 > 10 > 6" in result.stderr
    assert "6 tokens, " in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_json_is_one_object_on_stdout(invoke, image):
    result = invoke(QUESTION, "--image", image, "--max-new-tokens", 3, "--json")
    found = json.loads(result.stdout)
    assert (len(found["tokens"]), found["finish_reason"]) == (3, "length")
    stages = found["trace"]["stages"]
    assert [(stage["layer"], stage["num_visual_out"]) for stage in stages] == [(1, 10), (3, 6)]
    assert len(stages[0]["kept"]) == 9
    assert len(stages[0]["scores"]) == 16
    assert found["first_token_ms"] > 0
    assert result.stderr == ""


def test_options_reach_the_session(invoke, image):
    def ask(*args):
        result = invoke(QUESTION, "--image", image, "--json", *args)
        assert result.exit_code == 0, result.stderr
        return json.loads(result.stdout)

    unpruned = ask("--method", "none", "--max-new-tokens", 2)
    assert unpruned["trace"]["stages"] == []
    pruned = ask("--schedule", "3:4", "--max-new-tokens", 2)
    assert [stage["layer"] for stage in pruned["trace"]["stages"]] == [3]
    draw = ["--temperature", 2.0, "--top-k", 50, "--top-p", 0.95, "--max-new-tokens", 8]
    drawn = [ask(*draw, "--seed", seed)["tokens"] for seed in (1, 1, 2)]
    assert drawn[0] == drawn[1] != drawn[2]


def test_a_stop_text_ends_the_answer(invoke):
    whole = json.loads(invoke(QUESTION, "--json", "--temperature", 2, "--seed", 3).stdout)
    letter = next(letter for letter in whole["text"] if letter.isascii())
    args = ["--json", "--temperature", 2, "--seed", 3, "--stop", letter]
    cut = json.loads(invoke(QUESTION, *args).stdout)
    assert cut["text"] == whole["text"].partition(letter)[0]
    assert cut["finish_reason"] == "stop"


def test_text_alone_needs_no_image(invoke):
    result = invoke(QUESTION, "--max-new-tokens", 2)
    assert result.exit_code == 0
    assert "visual tokens" not in result.stderr


def test_a_raw_prompt_is_used_as_it_is(invoke, image):
    args = ["--max-new-tokens", 2, "--json"]
    result = invoke("a <image> b c", "--raw-prompt", "--image", image, *args)
    trace = json.loads(result.stdout)["trace"]
    assert (trace["prefix_length"], trace["num_visual"], trace["num_text"]) == (2, 16, 4)


def test_two_images_stand_before_the_question(invoke, image):
    args = ["--image", image, "--image", image, "--max-new-tokens", 1, "--json"]
    result = invoke(QUESTION, *args)
    assert result.exit_code == 0, result.stderr
    assert json.loads(result.stdout)["trace"]["num_visual"] >= 16


def test_trace_draws_the_patches(invoke, image):
    result = invoke(QUESTION, "--image", image, "--max-new-tokens", 2, "--trace")
    drawn = result.stderr.splitlines()[-4:]
    marks = " ".join(drawn).split()
    assert len(marks) == 16
    assert sum(mark != "." for mark in marks) == 9
    assert "prune_1" in result.stderr


@pytest.mark.parametrize(
    ("args", "told"),
    [
        (["--image", "nothing.png"], "nothing.png"),
        (["--image", __file__], "test_cli_run.py"),
        (["--budget", "0"], "a whole number of tokens"),
        (["--budget", "-1"], "a whole number of tokens"),
        (["--schedule", "2:5"], "boundaries: 1, 3"),
        (["--schedule", "abc"], "2:300,6:200,15:110"),
        (["--raw-prompt", "--image", "IMAGE"], "placeholder"),
        (["--temperature", "-1"], "temperature"),
        (["--provider", "cuda"], "CUDAExecutionProvider"),
    ],
)
def test_refusals_are_one_sentence(invoke, image, args, told):
    result = invoke(QUESTION, *(image if arg == "IMAGE" else arg for arg in args))
    assert result.exit_code == 1
    assert result.stdout == ""
    assert told in result.stderr
    assert len(result.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    "args",
    [
        ["--budget", "192", "--schedule", "1:9"],
        ["--method", "best"],
        ["--max-new-tokens", "0"],
        ["--runner", "abacus"],
    ],
)
def test_wrong_usage(invoke, args):
    assert invoke(QUESTION, *args).exit_code == 2


def test_a_missing_bundle(tmp_path):
    result = CliRunner().invoke(main, ["run", str(tmp_path / "none"), QUESTION])
    assert result.exit_code == 1
    assert "no such folder" in result.stderr


def test_as_a_program(bundle_of, image):
    options = ["--threads", "1", "--max-new-tokens", "2", "--no-verify", "--json"]
    program = [sys.executable, "-m", "sparsevlm_trt.runtime.cli", "run"]
    done = subprocess.run(
        [*program, bundle_of(), QUESTION, "--image", image, *options],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert len(json.loads(done.stdout)["tokens"]) == 2
    assert done.stderr == ""
