"""Whether TensorRT fuses the attention of families with masks of their own, by the builder's log.

An attention that is not fused stores the scores of all heads. Lengths are such that these outweigh
whatever else a graph may hold.
"""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import onnx
import pytest
import tiny_checkpoints
import torch

from sparsevlm_trt.export import weights
from sparsevlm_trt.export.checkpoint import Checkpoint
from sparsevlm_trt.export.families.registry import open_family
from sparsevlm_trt.export.to_onnx import onnx_from_module
from sparsevlm_trt.export.weights import WeightBinder
from sparsevlm_trt.runtime.engines.fusion import attention_verdict
from sparsevlm_trt.runtime.engines.profiles import Range

sys.path.insert(0, str(Path(__file__).parents[1] / "export"))
from attention_apart import take_apart

EXPORT_TESTS = Path(__file__).parents[1] / "export"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.tensorrt,
    pytest.mark.skipif(
        importlib.util.find_spec("tensorrt") is None,
        reason="no tensorrt module: install NVIDIA's, or the CPU stand-in",
    ),
]
# Towers of eight heads of 32.
HEADS = 8
TOWERS = {
    "qwen2_5_vl": (tiny_checkpoints.save_qwen2_5_vl, {"hidden_size": 256}),
    "qwen2_vl": (tiny_checkpoints.save_qwen2_vl, {"embed_dim": 256}),
    "qwen3_vl": (tiny_checkpoints.save_qwen3_vl, {"hidden_size": 256}),
}
PATCHES = 4096
SCORES_BYTES = 2 * HEADS * PATCHES**2
DIMS = {
    "batch": (1, 1, 1),
    "seq_len": (1, 640, 2048),
    "past_len": (0, 0, 2048),
    "num_visual": (0, 576, 1024),
    "num_raters": (0, 8, 64),
    "num_patches": (4, PATCHES, PATCHES),
}


class NoWriter:
    """Keeps weights inside the graphs of these tiny models."""

    def add_weight(self, name, data):
        raise AssertionError(f"{name} is too large for a tiny model")


@pytest.fixture
def exported(tmp_path, monkeypatch):
    """Write the graph of a module, as an export does."""
    monkeypatch.setattr(weights, "INLINE_BYTES", 1 << 30)

    def export(checkpoint, graph) -> Path:
        model = onnx_from_module(graph, 23)
        WeightBinder(checkpoint, NoWriter()).bind(model, graph)
        path = tmp_path / f"{graph.name}.onnx"
        weights.ir.save(model, path)
        return path

    return export


def ranges(path: Path) -> dict[str, Range]:
    found = {}
    for value in onnx.load(path, load_external_data=False).graph.input:
        dims = value.type.tensor_type.shape.dim
        shapes = [
            tuple(dim.dim_value or DIMS[dim.dim_param][which] for dim in dims)
            for which in range(3)
        ]
        found[value.name] = Range(*shapes)
    return found


def scratch_of(path: Path) -> int:
    shapes = {name: [one.min, one.opt, one.max] for name, one in ranges(path).items()}
    request = {"graph": str(path), "shapes": shapes, "values": {}}
    done = subprocess.run(
        [sys.executable, EXPORT_TESTS / "tensorrt_build.py"],
        input=json.dumps(request),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    answer = json.loads(done.stdout)
    assert answer["built"], answer["errors"]
    return answer["scratch_bytes"]


@pytest.mark.parametrize("kind", TOWERS)
def test_attention_of_towers_is_fused(exported, tmp_path, kind):
    save, width = TOWERS[kind]
    checkpoint = Checkpoint(save(tmp_path / "checkpoint", num_heads=HEADS, **width))
    path = exported(checkpoint, open_family(checkpoint, torch.float16).vision)
    # Its masks, [patches, patches], are there all the same.
    assert 2 * PATCHES**2 <= scratch_of(path) < SCORES_BYTES / 2
    model = onnx.load(path)
    take_apart(model, SimpleNamespace(num_heads=HEADS, num_kv_heads=HEADS, head_dim=32))
    apart = path.with_name("apart.onnx")
    onnx.save(model, apart)
    assert scratch_of(apart) > SCORES_BYTES


@pytest.mark.parametrize("kind", TOWERS)
def test_attention_of_stages_is_fused(exported, torch_sides, checkpoint_of, kind):
    manifest = torch_sides(kind).session.bundle.manifest
    checkpoint = Checkpoint(checkpoint_of(kind))
    language = open_family(checkpoint, torch.float16).language
    for stage in manifest.stages:
        path = exported(checkpoint, language.stage(stage))
        verdict = attention_verdict(manifest, stage.graph, [ranges(path)], scratch_of(path))
        assert verdict == "fused", stage.graph
