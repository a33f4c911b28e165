"""What ONNX Runtime's TensorRT providers are told, and what is said where they cannot start."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from sparsevlm_trt.runtime.bundle import Bundle
from sparsevlm_trt.runtime.engines.limits import Limits
from sparsevlm_trt.runtime.engines.profiles import graph_profiles
from sparsevlm_trt.runtime.gpu import read_gpus
from sparsevlm_trt.runtime.ort_gpu import RTX_PROVIDER, TENSORRT_PROVIDER, gpu_options


@pytest.fixture
def bundle(bundle_of, tmp_path):
    path = shutil.copytree(bundle_of("llava-llama", "float16"), tmp_path / "bundle")
    return Bundle.open(path, verify=False)


@pytest.mark.parametrize(
    ("provider", "prefix"), [(TENSORRT_PROVIDER, "trt"), (RTX_PROVIDER, "nv")]
)
def test_every_input_has_its_range(bundle, provider, prefix):
    limits = Limits(max_prompt=100, max_new_tokens=20, max_batch=2, max_images=1)
    options = gpu_options(bundle, "stage_0", provider, limits)
    (profile,) = graph_profiles(bundle.manifest, limits, "stage_0")
    for which in ("min", "opt", "max"):
        told = dict(
            part.rsplit(":", 1) for part in options[f"{prefix}_profile_{which}_shapes"].split(",")
        )
        assert set(told) == {tensor.name for tensor in bundle.manifest.graphs["stage_0"].inputs}
        assert told["hidden_states"] == "x".join(
            map(str, getattr(profile["hidden_states"], which))
        )


def test_engines_are_kept_in_the_bundle(bundle):
    options = gpu_options(bundle, "embed", TENSORRT_PROVIDER, None)
    assert options["trt_engine_cache_path"] == str(bundle.path / "engines/onnxruntime-tensorrt")
    assert Path(options["trt_engine_cache_path"]).is_dir()
    Bundle.open(bundle.path)  # which does not mind


def test_other_providers_get_nothing(bundle):
    assert gpu_options(bundle, "embed", "CUDAExecutionProvider", None) == {}
    assert not (bundle.path / "engines").exists()


@pytest.mark.skipif(bool(read_gpus().gpus), reason="there is a GPU here")
def test_without_a_gpu_the_plugin_says_so(bundle):
    # In a process of its own: a library that fails to load may leave parts of itself behind.
    command = ["-m", "sparsevlm_trt.runtime.cli", "run", str(bundle.path), "what is it"]
    done = subprocess.run(
        [sys.executable, *command, "--provider", "tensorrt-rtx"],
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert "expected NVIDIA's plugin and an RTX GPU" in done.stderr
    assert "Traceback" not in done.stderr
