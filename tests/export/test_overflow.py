"""The overflow scan: every tensor's largest magnitude, masks apart."""

from __future__ import annotations

import json

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from onnx import TensorProto, helper

from sparsevlm_trt.export.overflow import PeakRunner, with_peaks
from sparsevlm_trt.runtime.cli import main

FLOAT = TensorProto.FLOAT


def test_peaks_of_full_and_empty_tensors(ort_session):
    nodes = [
        helper.make_node("Mul", ["x", "x"], ["square"]),
        helper.make_node("Sqrt", ["square"], ["y"]),
    ]
    value = helper.make_tensor_value_info
    graph = helper.make_graph(nodes, "g", [value("x", FLOAT, ["n"])], [value("y", FLOAT, ["n"])])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 23)], ir_version=10)
    made = {name: node.op_type for name, node in with_peaks(model).items()}
    assert made == {"square": "Mul", "y": "Sqrt"}
    onnx.checker.check_model(model)
    session = ort_session(model.SerializeToString())
    y, square, root = session.run(None, {"x": np.array([3, -400], np.float32)})
    assert y.tolist() == [3, 400]
    assert (float(square), float(root)) == (160000, 400)
    assert [float(v) for v in session.run(None, {"x": np.empty(0, np.float32)})[1:]] == [0, 0]


def overflow(path, *args):
    return CliRunner().invoke(main, ["overflow", str(path), "--max-new-tokens", "2", *args])


def test_a_tiny_model_is_safe(bundle_of):
    result = overflow(bundle_of(), "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert found["safe"]
    assert found["num_tensors"] > 100
    largest = found["peaks"][0]
    assert 0 < largest["magnitude"] < 65504


def test_what_is_beyond_is_named(bundle_of, monkeypatch):
    run = PeakRunner.run

    def amplified(self, graph, inputs, into=None):
        outputs = run(self, graph, inputs, into)
        if graph == "embed":
            outputs["inputs_embeds"] = outputs["inputs_embeds"] * np.float32(1e7)
        return outputs

    monkeypatch.setattr(PeakRunner, "run", amplified)
    result = overflow(bundle_of())
    assert result.exit_code == 1
    assert "stage_0" in result.stdout
    assert "residual scale" in result.stdout
    assert "--dtype float16 --peaks peaks.json" in result.stdout


def test_float16_bundles_are_refused(bundle_of):
    result = overflow(bundle_of("llava-llama", "float16"))
    assert result.exit_code == 1
    assert "--dtype float32" in result.stderr


@pytest.mark.parametrize("share", ["2", "-1"])
def test_wrong_usage(bundle_of, share):
    assert overflow(bundle_of(), f"--near={share}").exit_code == 2
