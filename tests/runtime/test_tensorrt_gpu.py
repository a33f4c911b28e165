"""What only a GPU can tell: `pytest -m gpu`, on a machine that has one.

The first part needs CUDA and cuda-python alone; the second TensorRT, and a bundle compiled for it.
"""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path

import numpy as np
import pytest

from sparsevlm_trt.runtime import Session
from sparsevlm_trt.runtime.device_array import DeviceArray
from sparsevlm_trt.runtime.gpu import read_gpus
from sparsevlm_trt.runtime.tensorrt.device import CudaDevice
from sparsevlm_trt.runtime.tensorrt.memory import DeviceMemory

GPUS = read_gpus().gpus
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not GPUS, reason=f"no GPU: {read_gpus().problem}"),
    pytest.mark.skipif(
        importlib.util.find_spec("cuda") is None, reason="no cuda-python: the tensorrt extra"
    ),
]


@pytest.fixture
def device():
    device = CudaDevice()
    yield device
    device.close()


@pytest.fixture
def memory(device):
    memory = DeviceMemory(device, 1 << 24)
    yield memory
    memory.close()


def test_bytes_go_there_and_back(memory):
    array = np.random.default_rng(0).integers(0, 1 << 40, (3, 50, 7))
    there = DeviceArray.empty(memory, array.shape, array.dtype)
    there[...] = array
    assert np.array_equal(np.asarray(there), array)
    assert np.array_equal(np.asarray(there[1, 10:20]), array[1, 10:20])


def test_rows_are_copied_within_the_device(memory):
    array = np.arange(24, dtype=np.int64).reshape(4, 6)
    one, other = (DeviceArray.empty(memory, array.shape, array.dtype) for _ in range(2))
    one[...] = array
    other[...] = np.zeros_like(array)
    other[1:3, 2:5] = one[0:2, 0:3]
    expected = np.zeros_like(array)
    expected[1:3, 2:5] = array[0:2, 0:3]
    assert np.array_equal(np.asarray(other), expected)


def test_zeros(device, memory):
    array = DeviceArray.empty(memory, (1000,), np.float32)
    array[...] = np.ones(1000, np.float32)
    device.fill_zero(array.pointer + 400, 400)
    assert np.asarray(array).sum() == 900


def test_what_is_recorded_happens_when_launched(device, memory):
    source, target = (DeviceArray.empty(memory, (64,), np.int64) for _ in range(2))
    target[...] = np.zeros(64, np.int64)
    device.begin_capture()
    lines = ((target.pointer, 512), (source.pointer, 512))
    device.copy("within", *lines, rows=1, width=512)
    recorded = device.end_capture()
    for number in range(3):
        source[...] = np.full(64, number)
        assert np.asarray(target).max() == max(0, number - 1)
        device.launch(recorded)
        assert np.array_equal(np.asarray(target), np.asarray(source))


def test_a_block_larger_than_the_gpu_is_refused(device):
    with pytest.raises(Exception, match="enough memory"):
        device.allocate(GPUS[0].memory_bytes * 4)


@pytest.fixture(scope="module")
def sessions(bundle_of, tmp_path_factory):
    """The same float16 bundle on ONNX Runtime's CPU and on TensorRT."""
    from click.testing import CliRunner

    from sparsevlm_trt.runtime.cli import main

    if importlib.util.find_spec("tensorrt") is None:
        pytest.skip("no tensorrt module")
    tensorrt = importlib.import_module("tensorrt")
    if getattr(tensorrt, "IS_TENSORRT_RTX", False):
        pytest.skip("the CPU stand-in of tensorrt runs no engines")
    source = bundle_of("llava-llama", "float16")
    path = Path(shutil.copytree(source, tmp_path_factory.mktemp("gpu") / "bundle"))
    done = CliRunner().invoke(main, ["compile", str(path), "--target", "tensorrt", "--no-cache"])
    assert done.exit_code == 0, done.output
    with Session.load(path) as plain, Session.load(path, "tensorrt") as engines:
        yield plain, engines


def test_engines_answer_as_the_chain_does(sessions):
    plain, engines = sessions
    image = np.random.default_rng(0).integers(0, 255, (70, 60, 3), np.uint8)
    prompt = "USER: <image>\nwhat is in the corner? ASSISTANT:"
    options = {"images": image, "prompt": prompt, "max_new_tokens": 6, "stop_tokens": ()}
    one, other = plain.generate(**options), engines.generate(**options)
    assert np.allclose(one.prefill_logits, other.prefill_logits, atol=5e-2)
    assert one.trace.cache_lengths == other.trace.cache_lengths
    # Recorded steps, launched the second time.
    assert engines.generate(**options).tokens == other.tokens
