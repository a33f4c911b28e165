"""The TensorRT runner above its engines: addresses, caches in place, recorded decode steps.

No engine runs here: see host_engines.py for what stands for TensorRT and the GPU. What only a GPU
can tell is in test_tensorrt_gpu.py.
"""

from __future__ import annotations

import importlib.util
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

from sparsevlm_ops.methods import METHODS
from sparsevlm_trt.runtime import Session
from sparsevlm_trt.runtime.bundle import Bundle
from sparsevlm_trt.runtime.errors import RunnerError
from sparsevlm_trt.runtime.runner import open_runner
from sparsevlm_trt.runtime.tensorrt.decode_step import spacing
from sparsevlm_trt.runtime.tensorrt.runner import TensorRtRtxRunner

sys.path.insert(0, str(Path(__file__).parent))
from host_engines import HostDevice, host_library

pytestmark = [
    pytest.mark.tensorrt,
    pytest.mark.skipif(
        importlib.util.find_spec("tensorrt") is None,
        reason="no tensorrt module: install NVIDIA's, or the CPU stand-in",
    ),
]

# The bundle is cut after layers 1 and 3; the adaptive method prunes elsewhere.
FOLLOWED = sorted(set(METHODS) - {"sparsevlm-adaptive"})
PROMPT = "USER: <image>\nwhat is in the corner? ASSISTANT:"
LAYOUT = {"prefix_length": 4, "num_visual": 16}
OPTIONS = {"max_new_tokens": 6, "stop_tokens": ()}


@pytest.fixture(scope="module")
def bundle(compiled):
    return Bundle.open(compiled, verify=False)


@pytest.fixture(scope="module")
def plain(compiled):
    with Session.load(compiled) as session:
        yield session


@pytest.fixture
def device():
    return HostDevice()


def session_on(bundle, device, **options):
    runner = TensorRtRtxRunner(device=device, library=host_library(device), **options)
    runner.load(bundle, list(bundle.manifest.graphs))
    return Session(bundle, runner)


def image(seed):
    return np.random.default_rng(seed).integers(0, 255, (70, 60, 3), np.uint8)


def assert_alike(one, other):
    assert one.tokens == other.tokens
    # The recorded steps read whole caches: sums run in another order.
    assert np.allclose(one.prefill_logits, other.prefill_logits, atol=1e-3)
    assert np.allclose(one.step_logits, other.step_logits, atol=3e-2)
    assert one.trace.cache_lengths == other.trace.cache_lengths
    for mine, theirs in zip(one.trace.stages, other.trace.stages, strict=True):
        assert mine.kept.tolist() == theirs.kept.tolist()


@pytest.mark.parametrize(
    ("method", "cuda_graphs"), [("sparsevlm", False), *((name, True) for name in FOLLOWED)]
)
def test_answers_are_those_of_the_plain_chain(bundle, plain, device, method, cuda_graphs):
    options = {"images": image(0), "prompt": PROMPT, "method": method, **OPTIONS}
    with session_on(bundle, device, cuda_graphs=cuda_graphs) as session:
        result = session.generate(**options)
        assert_alike(plain.generate(**options), result)
        stages = len(bundle.manifest.stages)
        # The first decode step runs and is recorded, each later one is launched.
        assert device.recordings == (stages if cuda_graphs else 0)
        steps = OPTIONS["max_new_tokens"] - 1
        assert device.launches == (stages * (steps - 1) if cuda_graphs else 0)
        # The same request finds its recordings again: the same addresses.
        assert session.generate(**options).tokens == result.tokens
        assert device.recordings == (stages if cuda_graphs else 0)


def test_batches_run_the_plain_way(bundle, plain, device):
    rows = np.random.default_rng(2).normal(size=(3, 30, 64)).astype(np.float32)
    with session_on(bundle, device) as session:
        for one, other in zip(
            plain.generate_from_embeds(rows, **LAYOUT, **OPTIONS),
            session.generate_from_embeds(rows, **LAYOUT, **OPTIONS),
            strict=True,
        ):
            assert_alike(one, other)
        assert device.launches == 0
        more = np.concatenate([rows, rows])
        with pytest.raises(RunnerError, match="--max-batch"):
            session.generate_from_embeds(more, **LAYOUT, **OPTIONS)


def test_requests_may_alternate(bundle, plain, device):
    # Two answers under way at once, step by step: their caches and recordings are apart.
    prompts = [{"images": image(1), "prompt": PROMPT}, {"prompt": "no image at all"}]
    with session_on(bundle, device) as session:
        wanted = [plain.generate(**prompt, **OPTIONS).text for prompt in prompts]
        streams = [session.stream(**prompt, **OPTIONS) for prompt in prompts]
        texts = ["", ""]
        running = [0, 1]
        while running:
            for index in list(running):
                piece = next(streams[index], None)
                if piece is None:
                    running.remove(index)
                else:
                    texts[index] += piece
        assert texts == wanted


def test_a_request_fits_in_the_forecast(bundle, device):
    with session_on(bundle, device) as session:
        session.generate(images=image(0), prompt=PROMPT, **OPTIONS)
        memory = session.runner._memory
        assert memory.spilled_bytes == 0
        assert 0 < memory.peak_bytes <= device.open_bytes
    assert device.open_bytes == 0
    assert device.closed


def test_between_vision_and_logits_the_host_reads_decisions_only(bundle, device):
    with session_on(bundle, device) as session:
        session.generate(images=image(0), prompt=PROMPT, **OPTIONS)
        model = bundle.manifest.model
        fetched = [rows * width for way, rows, width in device.copies if way == "to_host"]
        logits = 4 * model.vocab_size
        assert fetched.count(logits) == OPTIONS["max_new_tokens"]
        decisions = [size for size in fetched if size != logits]
        hidden = 30 * model.hidden_size * 2
        assert sum(decisions) < hidden


def test_a_prompt_beyond_the_limits_is_refused(bundle, device):
    with session_on(bundle, device) as session, pytest.raises(RunnerError, match="--max-prompt"):
        session.generate(prompt="word " * 100, **OPTIONS)


def test_a_wrong_engine_is_not_loaded(compiled, tmp_path, device):
    path = Path(shutil.copytree(compiled, tmp_path / "bundle"))
    plan = next((path / "engines/tensorrt-rtx").glob("stage_1-*.plan"))
    plan.write_bytes(plan.read_bytes()[:-1] + b"?")
    with pytest.raises(RunnerError, match=r"sparsevlm compile .*--graph stage_1"):
        session_on(Bundle.open(path), device)


def test_a_bundle_without_engines_says_how_to_build_them(bundle_of, device):
    bundle = Bundle.open(bundle_of("llava-llama", "float16"), verify=False)
    with pytest.raises(RunnerError, match="sparsevlm compile"):
        session_on(bundle, device)


def test_an_engine_that_cannot_be_recorded_runs_the_plain_way(bundle, plain, device, monkeypatch):
    def refuse():
        device._recording = None
        raise RunnerError("runner | not permitted while recording | expected none | -")

    monkeypatch.setattr(device, "end_capture", refuse)
    options = {"images": image(0), "prompt": PROMPT, **OPTIONS}
    with session_on(bundle, device) as session:
        assert_alike(plain.generate(**options), session.generate(**options))
        assert device.launches == 0


@pytest.mark.parametrize("name", ["tensorrt", "tensorrt-rtx"])
def test_without_a_gpu_it_says_so(name):
    pytest.importorskip("cuda.bindings")
    from sparsevlm_trt.runtime.gpu import read_gpus

    if read_gpus().gpus:
        pytest.skip("there is a GPU here")
    with pytest.raises(RunnerError, match="expected an NVIDIA GPU"):
        open_runner(name)


def test_spacing():
    assert spacing([100, 300, 500]) == 200
    assert spacing([100, 300, 400]) is None
    assert spacing([300, 100]) is None
    assert spacing([100]) is None
