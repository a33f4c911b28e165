"""Activations of a few huge rows or channels keep the precision of all others."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper

from sparsevlm_trt.calibration.balance import fit_site
from sparsevlm_trt.calibration.models import model_bytes
from sparsevlm_trt.calibration.rewrite import quantize_graph
from sparsevlm_trt.calibration.schemes import find_scheme
from sparsevlm_trt.calibration.statistics import Statistics
from sparsevlm_trt.runtime.ort import OnnxRuntimeRunner

NUM_INPUTS, NUM_OUTPUTS, NUM_ROWS = 64, 32, 60
SITE = "graph/product"


def random_rows(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((NUM_ROWS, NUM_INPUTS)).astype(np.float32)


def huge_row() -> np.ndarray:
    rows = random_rows(1)
    rows[7] *= 500
    return rows


def huge_channels() -> np.ndarray:
    rows = random_rows(2)
    rows[:, :3] *= 100
    return rows


def product_graph(weight: np.ndarray, op_type: str) -> ir.Model:
    """A product behind an operator that no division can be folded into."""
    names = ["hidden", "weight"] + (["bias"] if op_type == "Gemm" else [])
    tensors = [numpy_helper.from_array(weight, "weight")]
    if op_type == "Gemm":
        tensors.append(numpy_helper.from_array(np.ones(NUM_OUTPUTS, np.float32), "bias"))
    nodes = [
        helper.make_node("Identity", ["given"], ["hidden"], name="maker"),
        helper.make_node(op_type, names, ["made"], name="product"),
    ]
    values = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["rows", size])
        for name, size in (("given", NUM_INPUTS), ("made", NUM_OUTPUTS))
    ]
    graph = helper.make_graph(nodes, "graph", values[:1], values[1:], tensors)
    return ir.from_proto(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 23)], ir_version=10)
    )


@pytest.fixture
def quantized_product(tmp_path):
    """A function: the fit, and what the quantised graph and the product itself make of rows."""
    return partial(quantize_and_run, folder=tmp_path)


def quantize_and_run(rows: np.ndarray, op_type: str = "MatMul", *, folder: Path):
    weight = np.random.default_rng(0).standard_normal((NUM_INPUTS, NUM_OUTPUTS)).astype(np.float32)
    seen = Statistics(NUM_INPUTS, moments=False)
    seen.add(rows)
    scheme = find_scheme("int8")
    fit = fit_site(seen, [weight], scheme, can_balance=True)
    model = product_graph(weight, op_type)
    done = quantize_graph(
        "graph", model, {SITE: fit}, scheme, lambda _, tensor: tensor, {SITE: seen}
    )
    assert done == (SITE,)
    with OnnxRuntimeRunner() as runner:
        runner.put("graph", model_bytes(model), folder)
        found = runner.run("graph", {"given": rows})["made"]
    return fit, found, rows @ weight + (op_type == "Gemm")


def worst_error(found: np.ndarray, expected: np.ndarray) -> float:
    """Of all rows, the largest error as a share of the row's own length."""
    lengths = np.linalg.norm(expected, axis=1)
    return float((np.linalg.norm(found - expected, axis=1) / lengths).max())


@pytest.mark.parametrize("op_type", ["MatMul", "Gemm"])
def test_a_huge_row_leaves_the_others_their_precision(quantized_product, op_type):
    fit, found, expected = quantized_product(huge_row(), op_type)
    assert fit.by_row
    assert worst_error(found, expected) < 0.03


def test_even_rows_get_no_scales_of_their_own(quantized_product):
    fit, found, expected = quantized_product(random_rows(0))
    assert not fit.by_row
    assert worst_error(found, expected) < 0.03


def test_huge_channels_are_divided_where_nothing_can_be_folded(quantized_product):
    fit, found, expected = quantized_product(huge_channels())
    assert fit.balance is not None
    assert worst_error(found, expected) < 0.03


def test_rows_of_zeros_stay_zeros(quantized_product):
    rows = huge_row()
    rows[3] = 0
    fit, found, _ = quantized_product(rows)
    assert fit.by_row
    assert not found[3].any()
