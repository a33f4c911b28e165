"""Graphs made bad on purpose: the compile names graph, node and operator, and builds nothing."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import CliRunner, Result
from onnx import TensorProto, helper, numpy_helper

from sparsevlm_trt.runtime.bundle import Bundle
from sparsevlm_trt.runtime.cli import main
from sparsevlm_trt.runtime.engines.compile import CompileJob
from sparsevlm_trt.runtime.engines.limits import Limits
from sparsevlm_trt.runtime.engines.record import Machine
from sparsevlm_trt.runtime.errors import EngineError
from sparsevlm_trt.runtime.memory import Memory

pytestmark = [
    pytest.mark.tensorrt,
    pytest.mark.skipif(
        importlib.util.find_spec("tensorrt") is None,
        reason="no tensorrt module: install NVIDIA's, or the CPU stand-in",
    ),
]

HALF, FLOAT, INT = TensorProto.FLOAT16, TensorProto.FLOAT, TensorProto.INT64
NAMES = {HALF: "float16", FLOAT: "float32", INT: "int64", TensorProto.BOOL: "bool"}
value = helper.make_tensor_value_info


def graph(nodes, inputs, outputs, constants=()) -> onnx.ModelProto:
    made = helper.make_graph(nodes, "bad", inputs, outputs, list(constants))
    opsets = [helper.make_opsetid("", 23)]
    return helper.make_model(made, opset_imports=opsets, ir_version=10)


def attention(kind: int, cached: bool, causal: bool) -> onnx.ModelProto:
    """One attention over the new tokens, or over a cache and them."""
    dtype = np.float16 if kind == HALF else np.float32
    shape = ["batch", "seq_len", 64]
    inputs = [value("hidden_states", kind, shape)]
    weights = [
        numpy_helper.from_array(np.full((64, 64), scale, dtype), name)
        for name, scale in (("wq", 1), ("wk", 2))
    ]
    nodes = [
        helper.make_node("MatMul", ["hidden_states", "wq"], ["query"], name="q_proj"),
        helper.make_node("MatMul", ["hidden_states", "wk"], ["new"], name="k_proj"),
    ]
    keys = "new"
    if cached:
        inputs.append(value("past_key_values.0.key", kind, ["batch", "past_len", 64]))
        nodes.append(
            helper.make_node("Concat", ["past_key_values.0.key", "new"], ["keys"], axis=1)
        )
        keys = "keys"
    flags = {"is_causal": 1} if causal else {}
    nodes.append(
        helper.make_node(
            "Attention",
            ["query", keys, keys],
            ["out"],
            name="layers.0.self_attn",
            q_num_heads=2,
            kv_num_heads=2,
            **flags,
        )
    )
    return graph(nodes, inputs, [value("out", kind, shape)], weights)


def data_dependent() -> onnx.ModelProto:
    node = helper.make_node("NonZero", ["mask"], ["found"], name="find_kept")
    mask = value("mask", TensorProto.BOOL, ["batch", "num_visual"])
    return graph([node], [mask], [value("found", INT, [2, "count"])])


def too_many_kept() -> onnx.ModelProto:
    node = helper.make_node("TopK", ["scores", "k"], ["best", "index"], name="keep_best")
    scores = value("scores", FLOAT, ["batch", "num_visual"])
    outputs = [value("best", FLOAT, ["batch", 4000]), value("index", INT, ["batch", 4000])]
    return graph([node], [scores], outputs, [numpy_helper.from_array(np.array([4000]), "k")])


@pytest.fixture
def bundle_with(bundle_of, tmp_path):
    """A bundle whose `raters` is another graph."""

    def make(model: onnx.ModelProto) -> Path:
        path = Path(shutil.copytree(bundle_of("llava-llama", "float16"), tmp_path / "bundle"))
        onnx.save(model, path / "graphs/raters.onnx")
        content = (path / "graphs/raters.onnx").read_bytes()
        manifest = json.loads((path / "bundle.json").read_text())
        spec = manifest["graphs"]["raters"]
        spec["sha256"], spec["size_bytes"] = hashlib.sha256(content).hexdigest(), len(content)
        spec["inputs"], spec["outputs"] = (
            [described(each) for each in side] for side in (model.graph.input, model.graph.output)
        )
        manifest["links"] = [
            link for link in manifest["links"] if "raters." not in link["from"] + link["to"]
        ]
        (path / "bundle.json").write_text(json.dumps(manifest))
        return path

    return make


def described(info: onnx.ValueInfoProto) -> dict[str, object]:
    tensor = info.type.tensor_type
    shape = [dim.dim_param or dim.dim_value for dim in tensor.shape.dim]
    return {"name": info.name, "dtype": NAMES[tensor.elem_type], "shape": shape}


def compiled(path: Path) -> Result:
    command = ["compile", str(path), "--target", "tensorrt-rtx", "--no-cache", "--dry-run"]
    return CliRunner().invoke(main, [*command, "--graph", "raters"])


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (data_dependent(), ["find_kept", "NonZero"]),
        (attention(HALF, cached=True, causal=True), ["layers.0.self_attn", "is_causal", "past"]),
        (too_many_kept(), ["keep_best", "TopK", "4000", "3840"]),
        (attention(FLOAT, cached=True, causal=False), ["layers.0.self_attn", "float32"]),
    ],
    ids=["data-dependent", "causal with a cache", "K > 3840", "float32 attention"],
)
def test_a_bad_graph_is_named_before_anything_is_built(bundle_with, model, words):
    path = bundle_with(model)
    result = compiled(path)
    assert result.exit_code == 1, result.output
    for word in ("raters", "node", *words):
        assert word in result.stderr
    assert not (path / "engines").exists()


@pytest.mark.parametrize("causal", [False, True])
def test_a_sound_attention_passes(bundle_with, causal):
    result = compiled(bundle_with(attention(HALF, cached=not causal, causal=causal)))
    assert result.exit_code == 0, result.output


def test_what_cannot_fit_is_refused_with_advice(bundle_of):
    bundle = Bundle.open(bundle_of("llava-llama", "float16"), verify=False)
    machine = Machine("tensorrt-rtx", "1.7.1.116", "", ())
    job = CompileJob(bundle, machine, Limits.of(bundle))
    job.check_room(job.tasks, Memory(1 << 40, 1 << 40, None), 1 << 40)
    with pytest.raises(EngineError, match="shorter stages"):
        job.check_room(job.tasks, Memory(1 << 40, 100_000_000, None), 1 << 40)
    with pytest.raises(EngineError, match="more pruning layers"):
        job.check_room(job.tasks, Memory(1 << 40, 1 << 40, 100_000_000), 1 << 40)
    with pytest.raises(EngineError, match="--graph"):
        job.check_room(job.tasks, Memory(1 << 40, 1 << 40, None), 1000)
    with pytest.raises(EngineError, match="2 problems"):
        job.check_room(job.tasks, Memory(1 << 40, 1000, None), 1000)
