"""Which engine `auto` takes: the first that loads the bundle, with a reason for each other."""

from __future__ import annotations

import numpy as np
import pytest

from sparsevlm_trt.runtime import runner_choice
from sparsevlm_trt.runtime.errors import RunnerError
from sparsevlm_trt.runtime.gpu import Gpu, GpuDriver
from sparsevlm_trt.runtime.runner_choice import Candidate, candidates, load_best


class Engine:
    """A runner that loads, or does not."""

    def __init__(self, name: str, problem: str | None = None) -> None:
        self.name, self.problem, self.closed = name, problem, False

    def load(self, bundle: object, graphs: object) -> None:
        if self.problem:
            raise RunnerError(self.problem)

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def engines(monkeypatch):
    """Replace the engines; what is opened is recorded."""
    opened = []

    def install(listed, problems):
        def open_runner(name, **options):
            opened.append(Engine(name, problems.get(name)))
            return opened[-1]

        monkeypatch.setattr(runner_choice, "candidates", lambda threads: listed)
        monkeypatch.setattr(runner_choice, "open_runner", open_runner)
        return opened

    return install


def test_the_first_that_loads_is_taken(engines):
    listed = (Candidate("a", problem="no GPU"), Candidate("b"), Candidate("c"), Candidate("d"))
    opened = engines(listed, {"b": "not built"})
    runner, passed = load_best(None, [])
    assert runner.name == "c"
    assert passed == ["a: no GPU", "b: not built"]
    assert [engine.closed for engine in opened] == [True, False]


def test_the_last_ones_error_is_told(engines):
    engines((Candidate("a"), Candidate("b")), {"a": "no", "b": "broken bundle"})
    with pytest.raises(RunnerError, match="broken bundle"):
        load_best(None, [])


def test_options_of_one_engine_are_refused():
    with pytest.raises(RunnerError, match=r"got options providers .* threads alone"):
        load_best(None, [], providers=["CUDAExecutionProvider"])


@pytest.mark.parametrize("gpus", [(), (Gpu("Big", 80, "9.0"),)])
def test_the_order_and_what_a_gpu_changes(monkeypatch, gpus):
    driver = GpuDriver("13.0", gpus, None if gpus else "no NVIDIA driver")
    monkeypatch.setattr(runner_choice, "read_gpus", lambda: driver)
    monkeypatch.setattr(runner_choice, "_cuda_problem", lambda: None)
    listed = candidates(threads=3)
    assert [each.label for each in listed] == [
        "tensorrt",
        "tensorrt-rtx",
        "onnxruntime on CUDA",
        "openvino",
        "onnxruntime",
    ]
    assert {each.problem for each in listed[:3]} == {None if gpus else "no NVIDIA driver"}
    assert listed[-1] == Candidate("onnxruntime", {"threads": 3})


def test_openvino_is_passed_over_where_it_is_no_gain(monkeypatch):
    openvino = pytest.importorskip("openvino")

    class Core:
        def get_property(self, device, name):
            return ["FP32"]

    monkeypatch.setattr(openvino, "Core", Core)
    assert "bfloat16" in (runner_choice._openvino_problem() or "")


def test_a_session_of_the_best_engine_answers(bundle_of):
    from sparsevlm_trt.runtime import Session

    embeds = np.random.default_rng(0).normal(size=(25, 64)).astype(np.float32)
    with Session.load(bundle_of("llava-llama"), "auto", verify=False) as session:
        result = session.generate_from_embeds(
            embeds, prefix_length=3, num_visual=16, max_new_tokens=2, stop_tokens=()
        )
    assert len(result.tokens) == 2
