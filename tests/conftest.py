"""Tiny random checkpoints, and bundles of them, shared by all tests of a run."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import onnxruntime
import pytest
from click.testing import CliRunner
from tiny_checkpoints import CHECKPOINTS

from sparsevlm_trt.export import export_bundle
from sparsevlm_trt.runtime.cli import main
from sparsevlm_trt.runtime.ort import OnnxRuntimeRunner

SMALL_SCHEDULE = {1: 9, 3: 5}


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
def checkpoint_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A tiny checkpoint by kind, see `tiny_checkpoints.CHECKPOINTS`; made once per run."""
    made: dict[str, Path] = {}

    def make(kind: str) -> Path:
        if kind not in made:
            made[kind] = CHECKPOINTS[kind](tmp_path_factory.mktemp("checkpoints") / kind)
        return made[kind]

    return make


@pytest.fixture(scope="session")
def bundle_of(
    tmp_path_factory: pytest.TempPathFactory, checkpoint_of: Callable[[str], Path]
) -> Callable[..., Path]:
    """An exported bundle by checkpoint kind and dtype, cut after layers 1 and 3 of 6."""
    made: dict[tuple[str, str], Path] = {}

    def make(kind: str = "llava-llama", dtype: str = "float32") -> Path:
        key = (kind, dtype)
        if key not in made:
            out = tmp_path_factory.mktemp("bundles") / f"{kind}-{dtype}"
            made[key] = export_bundle(
                checkpoint_of(kind), out, schedule=SMALL_SCHEDULE, dtype=dtype
            )
        return made[key]

    return make


@pytest.fixture(scope="session")
def compiled(bundle_of: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A float16 bundle with its TensorRT-RTX engines, built once per run; copy it to damage it."""
    out = tmp_path_factory.mktemp("compiled") / "bundle"
    shutil.copytree(bundle_of("llava-llama", "float16"), out)
    command = ["compile", str(out), "--target", "tensorrt-rtx", "--no-cache", "--max-batch", "3"]
    result = CliRunner().invoke(main, command)
    assert result.exit_code == 0, result.output
    return out
