"""ONNX Runtime behind the Runner protocol, on graphs of a few nodes."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

from sparsevlm_trt.runtime import ort_pool
from sparsevlm_trt.runtime.bench.machine import grown_bytes, resident_bytes
from sparsevlm_trt.runtime.bundle import Bundle
from sparsevlm_trt.runtime.errors import RunnerError
from sparsevlm_trt.runtime.graph_spec import GraphSpec
from sparsevlm_trt.runtime.ort import OnnxRuntimeRunner
from sparsevlm_trt.runtime.ort_providers import load_cuda, merged_options
from sparsevlm_trt.runtime.runner import Runner, open_runner

WIDTH = 8


def save_double(path, dtype=TensorProto.FLOAT):
    """`new = 2 x`, `all = past ++ new`: one output of known shape, one that grows."""
    shape = ["batch", "seq_len", WIDTH]
    graph = helper.make_graph(
        [
            helper.make_node("Add", ["x", "x"], ["new"]),
            helper.make_node("Concat", ["past", "new"], ["all"], axis=1),
        ],
        "double",
        [
            helper.make_tensor_value_info("x", dtype, shape),
            helper.make_tensor_value_info("past", dtype, ["batch", "past_len", WIDTH]),
        ],
        [
            helper.make_tensor_value_info("new", dtype, shape),
            helper.make_tensor_value_info("all", dtype, ["batch", "all_len", WIDTH]),
        ],
    )
    opset = [helper.make_opsetid("", 21)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=10), path)


@pytest.fixture
def bundle(tmp_path, make_model):
    manifest, _ = make_model()
    for name, dtype in (("double", TensorProto.FLOAT), ("double_half", TensorProto.FLOAT16)):
        save_double(tmp_path / f"{name}.onnx", dtype)
        manifest.graphs[name] = GraphSpec(f"{name}.onnx", "0" * 64, 0, (), (), ())
    (tmp_path / "broken.onnx").write_bytes(b"not a graph")
    manifest.graphs["broken"] = GraphSpec("broken.onnx", "0" * 64, 0, (), (), ())
    return Bundle(tmp_path, manifest)


@pytest.fixture
def runner(bundle):
    with OnnxRuntimeRunner() as opened:
        opened.load(bundle, ["double", "double_half"])
        yield opened


def inputs(seq_len, past_len, dtype=np.float32):
    rng = np.random.default_rng(0)
    return {
        "x": rng.normal(size=(1, seq_len, WIDTH)).astype(dtype),
        "past": rng.normal(size=(1, past_len, WIDTH)).astype(dtype),
    }


def test_it_is_a_runner(runner):
    assert isinstance(runner, Runner)
    assert (runner.name, runner.device) == ("onnxruntime", "cpu")


# Below 1 MiB outputs are copied into place, from there on bound: both must look the same.
@pytest.mark.parametrize("seq_len", [1, 50_000])
@pytest.mark.parametrize("past_len", [0, 3])
def test_outputs_are_written_where_asked_and_nowhere_else(runner, seq_len, past_len):
    given = inputs(seq_len, past_len)
    buffer = np.full((1, seq_len + 2, WIDTH), 7, np.float32)
    place = buffer[:, 1:-1]
    out = runner.run("double", given, {"new": place})
    assert out["new"] is place
    assert np.array_equal(place, 2 * given["x"])
    assert (buffer[:, [0, -1]] == 7).all()
    assert np.array_equal(out["all"], np.concatenate([given["past"], place], axis=1))


def test_half_precision(runner):
    given = inputs(2, 1, np.float16)
    assert runner.run("double_half", given)["new"].dtype == np.float16


def test_a_buffers_used_part_is_an_input_as_it_lies(runner):
    cache = np.zeros((1, 9, WIDTH), np.float32)
    cache[:, :4] = 1
    given = {"x": np.ones((1, 1, WIDTH), np.float32), "past": cache[:, :4]}
    assert runner.run("double", given)["all"].sum() == (4 + 2) * WIDTH


@pytest.mark.parametrize("seq_len", [1, 50_000])
def test_a_place_of_another_shape_is_refused(runner, seq_len):
    place = np.empty((1, seq_len + 1, WIDTH), np.float32)
    with pytest.raises(RunnerError, match="double"):
        runner.run("double", inputs(seq_len, 0), {"new": place})


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"x": np.ones((1, 1, WIDTH), np.float32)}, "past"),
        ({**inputs(1, 0), "x": np.ones((1, 1, WIDTH + 1), np.float32)}, "Got: 9"),
        ({**inputs(1, 0), "x": np.ones((1, 1, WIDTH), np.int64)}, "int64"),
    ],
)
def test_inputs_that_do_not_fit_name_the_graph(runner, given, words):
    with pytest.raises(RunnerError, match=rf"graph double \|.*{words}"):
        runner.run("double", given)


def test_graphs_that_are_not_there_or_broken(runner, bundle):
    with pytest.raises(RunnerError, match=r"graph head .* double, double_half"):
        runner.run("head", {})
    with pytest.raises(RunnerError, match="graph broken"):
        runner.load(bundle, ["broken"])
    runner.close()
    with pytest.raises(RunnerError, match="expected one of: none"):
        runner.run("double", inputs(1, 0))


def test_a_provider_that_is_not_there_names_those_that_are():
    with pytest.raises(RunnerError, match=r"CPUExecutionProvider.* install .*onnx"):
        OnnxRuntimeRunner(providers=["NoSuchExecutionProvider"])


def test_a_missing_cuda_says_what_to_install(monkeypatch):
    onnxruntime = pytest.importorskip("onnxruntime")
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    with pytest.raises(RunnerError, match="install onnxruntime-gpu"):
        open_runner("onnxruntime", providers=["CUDAExecutionProvider"])


def test_a_provider_that_does_not_start_is_not_replaced_in_silence(bundle, monkeypatch):
    onnxruntime = pytest.importorskip("onnxruntime")
    names = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: names)
    runner = OnnxRuntimeRunner(providers=["CUDAExecutionProvider"])
    assert runner.device == "cuda"
    with (
        pytest.warns(UserWarning, match="CUDA"),
        pytest.raises(RunnerError, match="did not start"),
    ):
        runner.load(bundle, ["double"])


def test_options_reach_their_provider_over_ours(monkeypatch):
    onnxruntime = pytest.importorskip("onnxruntime")
    names = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: names)
    given = {"CUDAExecutionProvider": {"device_id": 1, "use_tf32": 1}}
    merged, other = merged_options(names, given)
    assert (merged["device_id"], merged["use_tf32"]) == ("1", "1")
    assert merged["arena_extend_strategy"] == "kSameAsRequested"
    assert other == {}
    runner = OnnxRuntimeRunner(providers=names, provider_options=given)
    assert runner._memory.ordinal == 1
    with pytest.raises(RunnerError, match=r"options of CUDA.* add it to providers"):
        open_runner("onnxruntime", provider_options=given)


def test_libraries_that_do_not_load_are_named():
    class Library:
        @staticmethod
        def preload_dlls():
            print("Failed to load libcublas.so.13: no such file")
            print("Please follow the instructions.")

    assert load_cuda(Library) == " (Failed to load libcublas.so.13: no such file)"
    assert load_cuda(object) == ""


def test_a_missing_onnxruntime_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(RunnerError, match="pip install onnxruntime"):
        open_runner("onnxruntime")


def test_unknown_runners_and_options_name_the_known():
    with pytest.raises(RunnerError, match="expected one of: onnxruntime"):
        open_runner("tensorflow")
    with pytest.raises(RunnerError, match="colour"):
        open_runner("onnxruntime", colour="red")


def test_graphs_share_their_scratch_memory(runner, tmp_path):
    """One arena for all: the second graph takes what the first one no longer needs."""
    nodes = [
        helper.make_node("Transpose", ["x"], ["turned"]),
        helper.make_node("MatMul", ["x", "turned"], ["square"]),  # n x n
        helper.make_node("ReduceMax", ["square"], ["y"], keepdims=0),
    ]
    ports = [
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)]
        for name, shape in (("x", ["n", 1]), ("y", []))
    ]
    graph = helper.make_graph(nodes, "outer", *ports)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 23)], ir_version=10)
    column = np.linspace(0, 3, 6000, dtype=np.float32)[:, None]
    grown = []
    for name in ("first", "second"):
        runner.put(name, model.SerializeToString(), tmp_path)
        before = resident_bytes()
        assert runner.run(name, {"x": column})["y"] == pytest.approx(9.0)
        grown.append(grown_bytes(before))
    assert grown[0] > 100e6  # 144 MB of products
    assert grown[1] < 30e6


def test_the_pool_is_made_once_and_shared(monkeypatch):
    made, arenas = [], []

    class Library:
        OrtAllocatorType, OrtMemType = onnxruntime.OrtAllocatorType, onnxruntime.OrtMemType
        OrtMemoryInfo, OrtArenaCfg = onnxruntime.OrtMemoryInfo, onnxruntime.OrtArenaCfg

        @staticmethod
        def create_and_register_allocator(memory, config):
            arenas.append(memory)

        @staticmethod
        def set_global_thread_pool_sizes(intra, inter):
            made.append((intra, inter))

    monkeypatch.setattr(ort_pool, "_pool_threads", None)
    ort_pool.share_pool(Library, 3)
    ort_pool.share_pool(Library, 3)
    ort_pool.share_pool(Library, None)
    assert made == [(3, 1)]
    assert len(arenas) == 1
    with pytest.raises(RunnerError, match=r"threads=4 .* expected 3"):
        ort_pool.share_pool(Library, 4)
    with pytest.raises(RunnerError, match="threads=0"):
        ort_pool.share_pool(Library, 0)


def test_importing_the_runtime_loads_no_engine():
    heavy = "{'onnxruntime', 'onnx', 'torch', 'transformers', 'tokenizers', 'jinja2', 'PIL'}"
    code = f"import sys, sparsevlm_trt.runtime; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
