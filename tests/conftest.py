"""Tiny random checkpoints, and bundles of them, shared by all tests of a run."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import onnxruntime
import pytest
import torch
from click.testing import CliRunner
from filelock import FileLock
from overflowing_checkpoint import save_overflowing
from tiny_checkpoints import CHECKPOINTS

from sparsevlm_trt.export import export_bundle
from sparsevlm_trt.runtime.cli import main
from sparsevlm_trt.runtime.ort import OnnxRuntimeRunner

SMALL_SCHEDULE = {1: 9, 3: 5}

MakeOnce = Callable[[str, Callable[[Path], object]], Path]


def pytest_configure(config: pytest.Config) -> None:
    """Give each of several test workers cores of its own, and their engines no more threads."""
    worker = getattr(config, "workerinput", None)
    if worker is None or not hasattr(os, "sched_setaffinity"):
        return
    cores = sorted(os.sched_getaffinity(0))
    number, count = int(worker["workerid"].removeprefix("gw")), int(worker["workercount"])
    own = cores[number % len(cores) :: count]
    os.sched_setaffinity(0, own)
    torch.set_num_threads(len(own))


@pytest.fixture(scope="session")
def make_once(tmp_path_factory: pytest.TempPathFactory) -> MakeOnce:
    """Makes a folder once per run, whichever test worker asks first; the others wait for it."""
    own = tmp_path_factory.getbasetemp()
    shared = own.parent if "PYTEST_XDIST_WORKER" in os.environ else own
    place = shared / "made-once"
    place.mkdir(exist_ok=True)

    def make(name: str, fill: Callable[[Path], object]) -> Path:
        folder, partial = place / name, place / f"{name}.partial"
        with FileLock(f"{folder}.lock"):
            if not folder.exists():
                shutil.rmtree(partial, ignore_errors=True)  # of a worker that failed at it
                fill(partial)
                partial.rename(folder)
        return folder

    return make


@pytest.fixture(scope="session")
def ort_session() -> Callable[[Path | bytes], onnxruntime.InferenceSession]:
    """Opens any model in the thread pool of the runner: with it, ONNX Runtime allows no other."""
    OnnxRuntimeRunner().close()

    def open_session(model: Path | bytes) -> onnxruntime.InferenceSession:
        options = onnxruntime.SessionOptions()
        options.use_per_session_threads = False
        source = model if isinstance(model, bytes) else str(model)
        return onnxruntime.InferenceSession(source, options)

    return open_session


@pytest.fixture(scope="session")
def checkpoint_of(make_once: MakeOnce) -> Callable[[str], Path]:
    """A tiny checkpoint by kind, see `tiny_checkpoints.CHECKPOINTS`; made once per run."""

    def make(kind: str) -> Path:
        return make_once(kind, CHECKPOINTS[kind])

    return make


@pytest.fixture(scope="session")
def bundle_of(make_once: MakeOnce, checkpoint_of: Callable[[str], Path]) -> Callable[..., Path]:
    """An exported bundle by checkpoint kind and dtype, cut after layers 1 and 3 of 6."""

    def make(kind: str = "llava-llama", dtype: str = "float32") -> Path:
        checkpoint = checkpoint_of(kind)
        return make_once(
            f"{kind}-{dtype}",
            lambda out: export_bundle(checkpoint, out, schedule=SMALL_SCHEDULE, dtype=dtype),
        )

    return make


@pytest.fixture(scope="session")
def mended(make_once: MakeOnce) -> Path:
    """A checkpoint that float16 cannot hold, and the way to one that it can.

    `checkpoint`; `float32`, its bundle; `peaks.json`, the scan of it; `float16`, made by that;
    `scan.txt` and `export.txt`, what the commands said.
    """

    def fill(folder: Path) -> None:
        folder.mkdir()
        checkpoint, plain = folder / "checkpoint", folder / "float32"
        save_overflowing(checkpoint)
        export_bundle(checkpoint, plain, schedule=SMALL_SCHEDULE)
        asked = ["overflow", str(plain), "--max-new-tokens", "2"]
        (folder / "scan.txt").write_text(_said(1, *asked))
        (folder / "peaks.json").write_text(_said(1, *asked, "--json"))
        schedule = ",".join(f"{layer}:{kept}" for layer, kept in SMALL_SCHEDULE.items())
        options = ["--dtype", "float16", "--schedule", schedule, "--quiet"]
        options += ["--peaks", str(folder / "peaks.json")]
        said = _said(0, "export", str(checkpoint), str(folder / "float16"), *options)
        (folder / "export.txt").write_text(said)

    return make_once("mended", fill)


def _said(exit_code: int, *arguments: str) -> str:
    result = CliRunner().invoke(main, list(arguments))
    assert result.exit_code == exit_code, result.output
    return result.stdout


@pytest.fixture(scope="session")
def compiled(bundle_of: Callable[..., Path], make_once: MakeOnce) -> Path:
    """A float16 bundle with its TensorRT-RTX engines, built once per run; copy it to damage it."""
    bundle = bundle_of("llava-llama", "float16")

    def fill(out: Path) -> None:
        shutil.copytree(bundle, out)
        options = ["--target", "tensorrt-rtx", "--no-cache", "--max-batch", "3"]
        result = CliRunner().invoke(main, ["compile", str(out), *options])
        assert result.exit_code == 0, result.output

    return make_once("compiled", fill)
