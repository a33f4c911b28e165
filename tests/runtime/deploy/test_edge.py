"""The edge folder: whole, pinned, without PyTorch, and it serves offline."""

from __future__ import annotations

import json
import os
import re
import subprocess
import urllib.request

import pytest
from click.testing import CliRunner

from sparsevlm_trt.runtime import Bundle
from sparsevlm_trt.runtime.cli import main


@pytest.fixture(scope="module")
def folder(bundle_of, tmp_path_factory):
    out = tmp_path_factory.mktemp("edge") / "box"
    done = CliRunner().invoke(main, ["deploy", "edge", str(bundle_of()), str(out)])
    assert done.exit_code == 0, done.output
    return out


def test_it_holds_the_bundle_and_pins_every_package(folder):
    Bundle.open(folder / "bundle")
    lines = (folder / "requirements.txt").read_text().splitlines()
    assert all(re.fullmatch(r"[a-z0-9._-]+==[0-9][A-Za-z0-9.]*", line) for line in lines), lines
    names = {line.partition("==")[0] for line in lines}
    assert {"numpy", "onnxruntime", "fastapi", "uvicorn", "starlette"} <= names
    assert not names & {"torch", "transformers", "onnx", "sparsevlm-trt"}


def test_scripts_are_sound_shell(folder):
    for name in ("fetch-wheels.sh", "install.sh", "start.sh"):
        assert os.access(folder / name, os.X_OK)
        subprocess.run(["sh", "-n", str(folder / name)], check=True)
        assert "@" not in (folder / name).read_text().replace("$@", "")


def test_an_existing_folder_is_left_alone(folder, bundle_of):
    again = CliRunner().invoke(main, ["deploy", "edge", str(bundle_of()), str(folder)])
    assert again.exit_code == 1
    assert "exists" in again.output


def test_nothing_half_written_is_left(bundle_of, tmp_path):
    broken = CliRunner().invoke(main, ["deploy", "edge", str(tmp_path), str(tmp_path / "out")])
    assert broken.exit_code == 1
    assert not list(tmp_path.iterdir())


def serve_and_ask(folder):
    command = [str(folder / "start.sh"), "--port", "0"]
    env = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=env) as server:
        try:
            url = server.stderr.readline().split()[-1]
            body = {"model": "bundle", "messages": [{"role": "user", "content": "hello"}]}
            request = urllib.request.Request(
                f"{url}/v1/chat/completions",
                json.dumps({**body, "max_tokens": 4}).encode(),
                {"Content-Type": "application/json"},
            )
            # It listens before it has loaded: the first request waits for that.
            with urllib.request.urlopen(request, timeout=60) as answer:
                return json.load(answer)
        finally:
            server.terminate()
            assert server.wait(20) == 0  # SIGTERM is a good end


@pytest.mark.slow
def test_it_installs_from_its_wheels_alone_and_serves(folder):
    fetched = subprocess.run([str(folder / "fetch-wheels.sh")], check=False, capture_output=True)
    if fetched.returncode:
        pytest.skip("needs a package index to fetch wheels from")
    subprocess.run([str(folder / "install.sh")], check=True, capture_output=True)
    assert serve_and_ask(folder)["usage"]["completion_tokens"] == 4
    python = folder / "venv/bin/python"
    for heavy in ("torch", "transformers", "onnx"):
        assert subprocess.run([python, "-c", f"import {heavy}"], check=False).returncode != 0
