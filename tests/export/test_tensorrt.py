"""Every graph of an fp16 bundle through TensorRT's parser and builder, dynamic as it is used."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch

from sparsevlm_trt.export import weights
from sparsevlm_trt.export.checkpoint import Checkpoint
from sparsevlm_trt.export.families.registry import open_family
from sparsevlm_trt.export.to_onnx import onnx_from_module
from sparsevlm_trt.runtime.bundle import Bundle
from sparsevlm_trt.runtime.engines.fusion import attention_verdict
from sparsevlm_trt.runtime.engines.profiles import Range
from sparsevlm_trt.runtime.graph_spec import GraphSpec, StageSpec
from sparsevlm_trt.runtime.manifest import Manifest

sys.path.insert(0, str(Path(__file__).parent))
from attention_apart import take_apart

pytestmark = [
    pytest.mark.tensorrt,
    pytest.mark.skipif(
        importlib.util.find_spec("tensorrt") is None,
        reason="no tensorrt module: install NVIDIA's, or the CPU stand-in",
    ),
]

# min, opt, max of each named dim. The first call has no past.
DIMS = {
    "batch": (1, 1, 4),
    "seq_len": (1, 640, 2048),
    "past_len": (0, 0, 2048),
    "num_visual": (0, 576, 1024),
    "num_raters": (0, 8, 64),
    "num_text": (1, 64, 512),
    "num_heads": (1, 4, 4),
    "num_images": (1, 1, 8),
}
# A prune step has a rater, and two visual tokens: one must stay and one must go.
PRUNE_DIMS = DIMS | {"seq_len": (2, 640, 2048), "num_visual": (2, 576, 1024)}
PRUNE_DIMS |= {"num_raters": (1, 8, 64)}
NUM_KEPT = ([1], [192], [1000])
NUM_HEADS = ([1], [2], [4])
BUILD = Path(__file__).with_name("tensorrt_build.py")
KINDS = ["llava-llama", "llava-mistral"]
# One graph of each step is built; the other methods share its file.
PRUNES = ["prune_sparsevlm", "prune_fastv", "prune_uniform"]
JUDGES = ["rank", "gravity"]
STAGES = ["stage_0", "stage_1", "stage_2"]
GRAPHS = ["vision", "embed", "raters", "rater_rows", *STAGES, *JUDGES, *PRUNES, "head"]
# Of a model that float16 alone cannot hold: scaled hidden states, float32 islands in its tower.
MENDED = ["vision", *STAGES, "prune_sparsevlm", "head"]
CASES = [(kind, graph) for kind in KINDS for graph in GRAPHS]
CASES += [("mended", graph) for graph in MENDED]


def profile_of(name: str, graph: GraphSpec) -> dict[str, list[list[int]]]:
    """Shapes of each input at the least, the usual and the most."""
    judges = name.startswith("prune_") or name in ("rater_rows", *JUDGES)
    dims = PRUNE_DIMS if judges else DIMS
    return {
        tensor.name: [
            [size if isinstance(size, int) else dims[size][i] for size in tensor.shape]
            for i in range(3)
        ]
        for tensor in graph.inputs
    }


def build(path: Path, shapes: dict[str, list[list[int]]]) -> dict[str, Any]:
    """Parse and build in another process; a builder that crashes fails this test only."""
    request = {
        "graph": str(path),
        "shapes": shapes,
        "values": {"num_kept": NUM_KEPT, "num_heads": NUM_HEADS},
    }
    done = subprocess.run(
        [sys.executable, BUILD], input=json.dumps(request), capture_output=True, text=True
    )
    assert done.returncode == 0, f"{path.name}: exit {done.returncode}: {done.stderr[-2000:]}"
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


@pytest.fixture(scope="module")
def bundle_of(bundle_of, mended):
    def make(kind: str, dtype: str) -> Path:
        return mended / dtype if kind == "mended" else bundle_of(kind, dtype)

    return make


@pytest.fixture(scope="module")
def built(bundle_of):
    made: dict[tuple[str, str], dict[str, Any]] = {}

    def make(kind: str, graph: str) -> dict[str, Any]:
        if (kind, graph) not in made:
            bundle = Bundle.open(bundle_of(kind, "float16"))
            spec = bundle.manifest.graphs[graph]
            made[kind, graph] = build(bundle.graph_path(graph), profile_of(graph, spec))
        return made[kind, graph]

    return make


def test_every_graph_is_listed(bundle_of):
    for kind in KINDS:
        graphs = Bundle.open(bundle_of(kind, "float16")).manifest.graphs
        files = {graphs[name].file for name in GRAPHS}
        assert {graph.file for graph in graphs.values()} == files


@pytest.mark.parametrize(("kind", "graph"), CASES)
def test_tensorrt_builds(built, bundle_of, kind, graph):
    answer = built(kind, graph)
    assert answer["parsed"], answer["errors"]
    assert answer["built"], answer["errors"]
    # Two inputs of the tracer that were one tensor become one input, and the other goes unread.
    assert answer["unused"] == []
    spec = Bundle.open(bundle_of(kind, "float16"), verify=False).manifest.graphs[graph]
    assert answer["inputs"] == [tensor.name for tensor in spec.inputs]
    doubts = [line for line in answer["warnings"] if "Int64 binding" not in line]
    assert doubts == []


@pytest.mark.parametrize("kind", KINDS)
def test_num_kept_is_read_by_the_host_and_nothing_else_is(built, kind):
    shape_tensors = {name: built(kind, name)["shape_tensors"] for name in GRAPHS}
    for prune in PRUNES:
        assert shape_tensors.pop(prune) == ["num_kept"]
    assert shape_tensors.pop("gravity") == ["num_heads"]
    assert not any(shape_tensors.values())


def verdict_of(manifest: Manifest, graph: str, answer: dict[str, Any]) -> str:
    """What the builder's scratch memory says of a stage built for `DIMS`."""
    profile = {
        name: Range(*(tuple(shape) for shape in shapes))
        for name, shapes in profile_of(graph, manifest.graphs[graph]).items()
    }
    return attention_verdict(manifest, graph, [profile], answer["scratch_bytes"])


@pytest.mark.parametrize("graph", STAGES)
@pytest.mark.parametrize("kind", [*KINDS, "mended"])
def test_attention_is_fused(built, bundle_of, kind, graph):
    manifest = Bundle.open(bundle_of(kind, "float16"), verify=False).manifest
    assert verdict_of(manifest, graph, built(kind, graph)) == "fused"


def test_attention_that_is_not_fused_is_found(bundle_of, tmp_path):
    # What a change of the graph could do: the same arithmetic in small nodes, a soft cap between.
    bundle = Bundle.open(bundle_of("llava-llama", "float16"), verify=False)
    model = onnx.load(bundle.graph_path("stage_2"))
    take_apart(model, bundle.manifest.model)
    path = tmp_path / "stage_2.onnx"
    onnx.save(model, path)
    answer = build(path, profile_of("stage_2", bundle.manifest.graphs["stage_2"]))
    assert answer["built"], answer["errors"]
    assert verdict_of(bundle.manifest, "stage_2", answer) == "not fused"


@pytest.mark.parametrize("kind", [*KINDS, "mended"])
def test_vision_attention_is_one_node(bundle_of, kind):
    # In fp16 such a node builds by a fused kernel or not at all.
    path = Bundle.open(bundle_of(kind, "float16"), verify=False).graph_path("vision")
    kinds = [node.op_type for node in onnx.load(path, load_external_data=False).graph.node]
    assert kinds.count("Attention") >= 2
    assert "Softmax" not in kinds


class WeightFolder:
    """Stands in for a bundle's writer: each weight in a file of its own."""

    def __init__(self, path: Path) -> None:
        self.path = path
        (path / "graphs" / "weights").mkdir(parents=True)

    def add_weight(self, name: str, data: np.ndarray) -> str:
        file = f"graphs/weights/{name.replace('/', '_')}.bin"
        (self.path / file).write_bytes(data.tobytes())
        return file


@pytest.mark.parametrize("opset", [23, 24])
def test_weights_outside_the_graph_are_found(checkpoint_of, tmp_path, monkeypatch, opset):
    monkeypatch.setattr(weights, "INLINE_BYTES", 256)  # the tiny model's weights are small
    checkpoint = Checkpoint(checkpoint_of("llama"))
    graph = open_family(checkpoint, torch.float16).language.stage(StageSpec("stage_0", 0, 1))
    model = onnx_from_module(graph, opset)
    files = weights.WeightBinder(checkpoint, WeightFolder(tmp_path)).bind(model, graph)
    assert len(files) == 5  # of one layer: q, k and v are one product
    path = tmp_path / "graphs" / "stage_0.onnx"
    weights.ir.save(model, path)
    assert path.stat().st_size < 64 * 1024
    shapes = {
        value.name: [
            [size if isinstance(size, int) else DIMS[size.value][i] for size in value.shape]
            for i in range(3)
        ]
        for value in model.graph.inputs
    }
    answer = build(path, shapes)
    assert answer["built"], answer["errors"]
