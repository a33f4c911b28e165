"""The prune graph of every method: one interface, equal to eager; see test_tensorrt.py too."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
import torch

from sparsevlm_ops.cells import block_grid, cell_numbers, coarser_grid
from sparsevlm_ops.methods import METHODS, Method
from sparsevlm_ops.prune import Pruned
from sparsevlm_ops.steps import step_of
from sparsevlm_trt.export.checkpoint import Checkpoint
from sparsevlm_trt.export.families.registry import open_family
from sparsevlm_trt.export.to_onnx import onnx_from_module

# One method for each step: the others take the same graph.
METHODS_THAT_PRUNE = [METHODS[name] for name in ("sparsevlm", "fastv", "uniform")]
INPUTS = (
    "hidden_states",
    "position_ids",
    "rater_attention",
    "rater_weights",
    "prefix_length",
    "num_kept",
    "original_positions",
)
HIDDEN = 64
# B, P, V, T, R, K, H: the smallest there are, then a row of two tokens, then an odd batch.
EDGE_SHAPES = [(1, 0, 2, 0, 1, 1, 1), (3, 1, 2, 1, 1, 1, 1), (3, 4, 30, 5, 2, 7, 2)]


def draw(method: Method, shape, dtype, seed):
    """Draw inputs as the chain would give them: cells for a method that pools, else attention."""
    B, P, V, T, R, K, H = shape
    generator = torch.Generator().manual_seed(seed)
    attention = torch.rand(B, H, R, V, generator=generator)
    weights = torch.ones(B, R)
    weights[0, 1:] = 0  # padding raters
    if method.pools:
        grid = block_grid(V, (2, 3))
        after = coarser_grid(grid, K, grid)
        K = after[0] * after[1]
        cells = torch.tensor(cell_numbers(grid, after), dtype=torch.float32)
        attention, weights = cells.expand(B, 1, 1, V), torch.ones(B, 1)
    return {
        "hidden_states": torch.randn(B, P + V + T, HIDDEN, generator=generator).to(dtype),
        "position_ids": torch.arange(7, P + V + T + 7).repeat(B, 1),
        "rater_attention": attention,
        "rater_weights": weights,
        "prefix_length": torch.tensor([P]),
        "num_kept": torch.tensor([K]),
        "original_positions": torch.tensor([seed % 2]),
    }


@pytest.fixture(scope="module")
def graph_of(checkpoint_of, tmp_path_factory):
    made = {}

    def make(name: str, dtype: torch.dtype) -> Path:
        method = METHODS[name].step
        if (method, dtype) not in made:
            family = open_family(Checkpoint(checkpoint_of("llama")), dtype)
            model = onnx_from_module(family.language.prune(method), 23)
            path = tmp_path_factory.mktemp("prune") / f"{method}.onnx"
            ir.save(model, path)
            made[method, dtype] = path
        return made[method, dtype]

    return make


@pytest.fixture(params=[torch.float32, torch.float16], ids=["float32", "float16"])
def dtype(request):
    return request.param


@pytest.fixture(params=METHODS_THAT_PRUNE, ids=lambda method: method.name)
def method(request):
    return request.param


def test_every_method_has_the_same_interface(graph_of, method):
    model = ir.load(graph_of(method.name, torch.float32))
    assert tuple(value.name for value in model.graph.inputs) == INPUTS
    assert tuple(value.name for value in model.graph.outputs) == Pruned._fields
    same = ir.load(graph_of("sparsevlm", torch.float32))
    for ours, theirs in zip(
        (*model.graph.inputs, *model.graph.outputs),
        (*same.graph.inputs, *same.graph.outputs),
        strict=True,
    ):
        assert (ours.dtype, str(ours.shape)) == (theirs.dtype, str(theirs.shape)), ours.name


def test_onnxruntime_equals_eager_whatever_the_shape(graph_of, ort_session, method, dtype):
    session = ort_session(graph_of(method.name, dtype))
    step, rng = step_of(method), random.Random(0)
    shapes = list(EDGE_SHAPES)
    while len(shapes) < 30:
        V = rng.randint(2, 150)
        rest = (rng.randint(0, 12), rng.randint(1, 8), rng.randint(1, V - 1), rng.randint(1, 6))
        shapes.append((rng.randint(1, 3), rng.randint(0, 20), V, *rest))
    for seed, shape in enumerate(shapes):
        inputs = draw(method, shape, dtype, seed)
        if inputs["num_kept"].item() >= shape[2]:
            continue  # a grid that is fine enough already
        got = session.run(None, {name: value.numpy() for name, value in inputs.items()})
        for name, eager, array in zip(Pruned._fields, step(**inputs), got, strict=True):
            assert (array.dtype, array.shape) == (eager.numpy().dtype, eager.shape), name
            # A half-precision mean may round the other way: one unit in the last place.
            tolerance = 2e-3 if array.dtype == np.float16 else 1e-5
            np.testing.assert_allclose(
                array, eager.numpy(), rtol=tolerance, atol=tolerance, err_msg=f"{name} {shape}"
            )
