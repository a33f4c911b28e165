"""Quantised graphs through TensorRT's parser and builder: they build, and stay small."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import onnx_ir as ir
import pytest

pytestmark = [
    pytest.mark.tensorrt,
    pytest.mark.skipif(
        importlib.util.find_spec("tensorrt") is None,
        reason="no tensorrt module: install NVIDIA's, or the CPU stand-in",
    ),
]
BUILD = Path(__file__).parents[1] / "export" / "tensorrt_build.py"
DIMS = {
    "batch": (1, 1, 4),
    "seq_len": (1, 64, 256),
    "past_len": (0, 0, 256),
    "num_visual": (0, 16, 64),
    "num_raters": (0, 8, 64),
    "num_images": (1, 1, 2),
}


def build(bundle, graph):
    spec = bundle.manifest.graphs[graph]
    shapes = {
        tensor.name: [
            [size if isinstance(size, int) else DIMS[size][i] for size in tensor.shape]
            for i in range(3)
        ]
        for tensor in spec.inputs
    }
    request = {"graph": str(bundle.graph_path(graph)), "shapes": shapes, "values": {}}
    done = subprocess.run(
        [sys.executable, BUILD], input=json.dumps(request), capture_output=True, text=True
    )
    assert done.returncode == 0, f"{graph}: exit {done.returncode}: {done.stderr[-2000:]}"
    return json.loads(done.stdout)


def test_tensorrt_builds_a_stage_with_an_int8_cache(quantized):
    answer = build(quantized("int8", "float16", int8_cache=True), "stage_1")
    assert answer["parsed"], answer["errors"]
    assert answer["built"], answer["errors"]


@pytest.mark.parametrize("scheme", ["int8", "int4-weight", "fp8"])
@pytest.mark.parametrize("graph", ["embed", "stage_0", "vision", "head"])
def test_tensorrt_builds(quantized, scheme, graph):
    bundle = quantized(scheme, "float16")
    answer = build(bundle, graph)
    assert answer["parsed"], answer["errors"]
    assert answer["built"], answer["errors"]
    # Codes stay codes: unpacked, the graphs would hold 1.6 times as much or more. The library pads
    # the three channels of the tower's convolution, most of this tower, to four.
    model = ir.load(bundle.graph_path(graph))
    stored = sum(value.const_value.nbytes for value in model.graph.initializers.values())
    assert 0 < answer["weight_bytes"] <= 1.3 * stored, (answer["weight_bytes"], stored)
