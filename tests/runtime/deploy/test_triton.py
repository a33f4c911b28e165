"""The model repository, and the real Triton server on it."""

from __future__ import annotations

import base64
import io
import json
import os
import queue
import shutil
import subprocess
import sys
import time
import urllib.request
import venv
import zipfile
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from sparsevlm_trt.runtime import Bundle, Session
from sparsevlm_trt.runtime.cli import main

ROOT = Path(__file__).parents[3]
PORTS = (28500, 28501, 28502)


@pytest.fixture(scope="module")
def repository(bundle_of, tmp_path_factory):
    out = tmp_path_factory.mktemp("triton") / "models"
    args = ["deploy", "triton", str(bundle_of()), str(out), "--name", "tiny", "--slots", "4"]
    done = CliRunner().invoke(main, args)
    assert done.exit_code == 0, done.output
    return out


def test_the_repository_is_whole(repository):
    assert sorted(path.name for path in repository.iterdir()) == ["tiny"]
    text = (repository / "tiny/config.pbtxt").read_text()
    assert 'name: "tiny"' in text
    assert "decoupled: true" in text
    assert 'value { string_value: "4" }' in text
    Bundle.open(repository / "tiny/1/bundle")


@pytest.mark.parametrize("name", ["a b", "../x", "", 'x"y'])
def test_names_that_no_repository_takes(bundle_of, tmp_path, name):
    out = tmp_path / "models"
    args = ["deploy", "triton", str(bundle_of()), str(out), f"--name={name}"]
    done = CliRunner().invoke(main, args)
    if name:
        assert done.exit_code == 1
        assert not out.exists()
    else:  # an empty name is none: the folder's is taken
        assert done.exit_code == 0


# --- the real server ---


@pytest.fixture(scope="module")
def triton_folder(tmp_path_factory):
    """The server that the wheel of nvidia-pytriton ships, unpacked; CPU is enough for it."""
    folder = tmp_path_factory.mktemp("tritonserver")
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "-d", str(folder)]
    done = subprocess.run([*pip, "nvidia-pytriton==0.7.0"], check=False, capture_output=True)
    if done.returncode:
        pytest.skip("needs a package index with nvidia-pytriton")
    with zipfile.ZipFile(next(folder.glob("*.whl"))) as wheel:
        wheel.extractall(folder)
    return folder


@pytest.fixture(scope="module")
def backend_python(tmp_path_factory):
    """An environment for Triton's Python backend: this version of it is built for numpy 1."""
    folder = tmp_path_factory.mktemp("backend")
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "-w", str(folder)]
    subprocess.run([*build, str(ROOT)], check=True, capture_output=True)
    venv.create(folder / "venv", with_pip=True)
    wheel = next(folder.glob("*.whl"))
    install = [str(folder / "venv/bin/pip"), "install", "--quiet", f"{wheel}[serve]", "numpy<2"]
    done = subprocess.run(install, check=False, capture_output=True, text=True)
    if done.returncode:
        pytest.skip("needs a package index to install the serve extra from")
    return folder / "venv"


@pytest.fixture(scope="module")
def server(repository, triton_folder, backend_python, tmp_path_factory):
    shipped = triton_folder / "pytriton/tritonserver"
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    stub = shipped / "python_backend_stubs" / version / "triton_python_backend_stub"
    if not stub.exists():
        pytest.skip(f"needs a stub for Python {version}")
    backends = tmp_path_factory.mktemp("backends")
    shutil.copytree(shipped / "backends/python", backends / "python")
    shutil.copy(stub, backends / "python")
    (backends / "python/triton_python_backend_stub").chmod(0o755)
    binary = shipped / "bin/tritonserver"
    binary.chmod(0o755)
    libraries = (triton_folder / "nvidia_pytriton.libs", Path(sys.base_prefix) / "lib")
    env = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    env["LD_LIBRARY_PATH"] = ":".join(map(str, libraries))
    env["PATH"] = f"{backend_python / 'bin'}:{env['PATH']}"
    http, grpc, metrics = PORTS
    command = [str(binary), f"--model-repository={repository}", f"--backend-directory={backends}"]
    command += [f"--http-port={http}", f"--grpc-port={grpc}", f"--metrics-port={metrics}"]
    command += ["--http-address=127.0.0.1", "--grpc-address=127.0.0.1", "--exit-timeout-secs=10"]
    log = tmp_path_factory.mktemp("log") / "triton.log"
    with (
        log.open("wb") as file,
        subprocess.Popen(command, stdout=file, stderr=file, env=env) as it,
    ):
        try:
            for _ in range(600):
                assert it.poll() is None, log.read_text()[-3000:]
                try:
                    urllib.request.urlopen(f"http://127.0.0.1:{http}/v2/health/ready", timeout=1)
                    break
                except OSError:
                    time.sleep(0.1)
            yield f"127.0.0.1:{grpc}"
        finally:
            it.terminate()
            assert it.wait(30) == 0, log.read_text()[-3000:]


def picture():
    pixels = np.random.default_rng(0).integers(0, 255, (80, 90, 3), np.uint8)
    return Image.fromarray(pixels)


def body(**changes):
    file = io.BytesIO()
    picture().save(file, "PNG")
    url = f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
    parts = [
        {"type": "image_url", "image_url": {"url": url}},
        {"type": "text", "text": "what is it"},
    ]
    asked = {"model": "tiny", "messages": [{"role": "user", "content": parts}], "max_tokens": 6}
    return json.dumps({**asked, **changes})


def ask(address, *bodies):
    """Send all bodies at once; returns the responses of each, an error as its text."""
    grpc = pytest.importorskip("tritonclient.grpc", reason="needs tritonclient[grpc]")
    news, answers, open_ids = queue.Queue(), {str(n): [] for n in range(len(bodies))}, set()
    with grpc.InferenceServerClient(address) as client:
        client.start_stream(callback=lambda result, error: news.put((result, error)))
        for number, text in enumerate(bodies):
            tensor = grpc.InferInput("request", [1], "BYTES")
            tensor.set_data_from_numpy(np.array([text.encode()], object))
            client.async_stream_infer(
                "tiny", [tensor], request_id=str(number), enable_empty_final_response=True
            )
            open_ids.add(str(number))
        errors = []
        while open_ids:
            result, error = news.get(timeout=60)
            if error is not None:
                errors.append(str(error))
                continue
            response = result.get_response()
            if response.outputs:
                answers[response.id].append(json.loads(result.as_numpy("response")[0]))
            if response.parameters["triton_final_response"].bool_param:
                open_ids.discard(response.id)
        client.stop_stream()
    return list(answers.values()), errors


@pytest.mark.slow
def test_triton_streams_and_batches_what_the_session_answers(server, bundle_of):
    plans = [{}, {"schedule": "1:4"}, {"method": "none"}]
    (streamed, *whole), errors = ask(
        server, body(stream=True), *(body(sparsevlm=plan) for plan in plans)
    )
    assert not errors
    content = [{"type": "image"}, {"type": "text", "text": "what is it"}]
    messages = [{"role": "user", "content": content}]
    with Session.load(bundle_of()) as session:
        for plan, (answer,) in zip(plans, whole, strict=True):
            alone = session.generate(
                images=[picture()], messages=messages, max_new_tokens=6, **plan
            )
            assert answer["choices"][0]["message"]["content"] == alone.text
    text = "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in streamed)
    assert text == whole[0][0]["choices"][0]["message"]["content"]
    assert len(streamed) >= 3


@pytest.mark.slow
def test_triton_tells_why_it_refuses(server):
    answers, errors = ask(server, body(sparsevlm={"budget": 3}), "{", body(n=2))
    assert answers == [[], [], []]
    assert any("budget 3" in error for error in errors)
    assert sum("expected OpenAI's chat request" in error for error in errors) == 2
