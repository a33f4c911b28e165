"""Write quantised linears into a graph: explicit Q/DQ around the same products.

Dims: K inputs and M outputs of a linear.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from sparsevlm_trt.calibration.activations import (
    divide_channels,
    divide_rows,
    quantize_activation,
)
from sparsevlm_trt.calibration.balance import Fit, block_of
from sparsevlm_trt.calibration.folding import find_fold
from sparsevlm_trt.calibration.graph_values import (
    Store,
    constant,
    dtype_of,
    initializer,
    new_value,
)
from sparsevlm_trt.calibration.rounding import Codes, compensated, nearest
from sparsevlm_trt.calibration.schemes import INT8, Scheme
from sparsevlm_trt.calibration.sites import Linear, find_sites
from sparsevlm_trt.calibration.statistics import Statistics

__all__ = ["quantize_graph"]

Floats = NDArray[np.float32]


@dataclass(slots=True)
class _Division:
    """What folding takes from the channels of an initializer, and what it gives to its inputs."""

    columns: list[tuple[int, int, Floats]] = field(default_factory=list)
    rows: Floats | None = None


def quantize_graph(
    name: str,
    model: ir.Model,
    fits: Mapping[str, Fit],
    scheme: Scheme,
    store: Store,
    statistics: Mapping[str, Statistics],
) -> tuple[str, ...]:
    """Quantise the sites of a graph that there are fits for, in place.

    Args:
        name: Name of the graph.
        model: The graph; it is changed.
        fits: What was found for each site, by name; a site without stays as it is.
        scheme: How to quantise.
        store: Takes each new tensor as it is made, so that one weight is in memory at a time.
        statistics: Where second moments are, for a scheme that compensates.

    Returns:
        The names of the sites that were quantised.
    """
    sites = [site for site in find_sites(name, model) if site.name in fits]
    divisions: dict[str, _Division] = {}
    inputs: dict[str, ir.Value] = {}  # what a site quantises, where it is divided before
    for site in sites:
        balance = fits[site.name].balance
        if balance is None:
            continue
        for linear in site.linears:
            divisions.setdefault(str(linear.weight.name), _Division()).rows = balance
        fold = find_fold(site)
        if fold is None:
            inputs[site.name] = divide_channels(model.graph, site, balance)
            continue
        for target in fold.targets:
            columns = divisions.setdefault(str(target.name), _Division()).columns
            columns.append((fold.start, fold.stop, balance))
    weights = {str(linear.weight.name) for site in sites for linear in site.linears}
    for target in sorted(set(divisions) - weights):
        value = model.graph.initializers[target]
        array = _divided(value, divisions[target], transposed=False)
        value.const_value = store(target, ir.Tensor(array.astype(dtype_of(value)), name=target))
    for site in sites:
        fit = fits[site.name]
        value, row_scale = inputs.get(site.name, site.value), None
        if fit.by_row:
            value, row_scale = divide_rows(model.graph, site, value)
        activations = quantize_activation(model.graph, site, value, fit, scheme)
        for linear, activation in zip(site.linears, activations, strict=True):
            division = divisions.get(str(linear.weight.name))
            weight = _divided(linear.weight, division, transposed=linear.transposed)
            seen = statistics.get(site.name)
            moments = seen.moments if seen is not None and scheme.compensates else None
            if moments is not None and fit.balance is not None:
                moments = moments / np.outer(fit.balance, fit.balance)
            codes = _codes(linear, weight, moments, scheme)
            _quantize_linear(model.graph, linear, activation, codes, row_scale, store)
    return tuple(site.name for site in sites)


def _codes(linear: Linear, weight: Floats, moments: Floats | None, scheme: Scheme) -> Codes:
    """Round a linear's weights `[K, M]`; a weight that lies `[M, K]` is a head's and int8."""
    dtype = dtype_of(linear.weight)
    if linear.transposed:  # one scale a row of it, so that it can share an embedding's
        return nearest(weight, INT8, None, dtype)
    block = block_of(scheme, weight.shape[0])
    if moments is None:
        return nearest(weight, scheme.weights, block, dtype)
    return compensated(weight, moments, scheme.weights, block, dtype)


def _quantize_linear(
    graph: ir.Graph,
    linear: Linear,
    activation: ir.Value,
    made: Codes,
    row_scale: ir.Value | None,
    store: Store,
) -> None:
    """Replace a linear by DQ of its codes, a MatMul, and what scales its rows back."""
    name, node = str(linear.weight.name), linear.node
    base, per_block = str(node.name), made.scales.ndim == 2
    codes = np.ascontiguousarray(made.codes.T) if linear.transposed else made.codes
    form = ir.DataType.from_numpy(codes.dtype)
    inputs = [
        initializer(graph, f"{name}.codes", ir.Tensor(codes, form), store),
        initializer(graph, f"{name}.scale", ir.Tensor(made.scales), store),
    ]
    attributes: dict[str, Any] = {"axis": 0 if linear.transposed or per_block else 1}
    if per_block:
        attributes["block_size"] = len(codes) // len(made.scales)
    else:
        # ONNX Runtime's integer kernels want zero points; TensorRT takes them if they are zero.
        inputs.append(constant(graph, f"{name}.zero", np.zeros(made.scales.shape, codes.dtype)))
    values = new_value(f"{name}.values", linear.weight.dtype)
    nodes = [
        ir.node("DequantizeLinear", inputs, attributes, outputs=[values], name=f"{base}/Weights")
    ]
    if linear.transposed:
        turned = new_value(f"{name}.turned", linear.weight.dtype)
        nodes.append(
            ir.node("Transpose", [values], {"perm": [1, 0]}, outputs=[turned], name=f"{base}/Turn")
        )
        values = turned
    nodes.append(ir.node("MatMul", [activation, values], name=base))
    if row_scale is not None:
        scaled = [nodes[-1].outputs[0], row_scale]
        nodes.append(ir.node("Mul", scaled, name=f"{base}/Rows"))
    bias = node.inputs[2] if node.op_type == "Gemm" and len(node.inputs) > 2 else None
    if bias is not None:
        nodes.append(ir.node("Add", [nodes[-1].outputs[0], bias], name=f"{base}/Add"))
    output, result = node.outputs[0], nodes[-1].outputs[0]
    kept, result.dtype, result.shape = output.name, output.dtype, output.shape
    output.name = f"{kept}.before"
    ir.convenience.replace_nodes_and_values(graph, node, [node], nodes, [output], [result])
    result.name = kept
    del graph.initializers[name]


def _divided(value: ir.Value, division: _Division | None, *, transposed: bool) -> Floats:
    """Read an initializer, `[K, M]` if a weight, with all that folding does to it."""
    assert value.const_value is not None
    array = np.array(value.const_value.numpy(), np.float32)  # a copy: it may lie in a mapped file
    if division is not None:
        for start, stop, balance in division.columns:
            array[..., start:stop] /= balance
    if transposed:
        array = np.ascontiguousarray(array.T)
    if division is not None and division.rows is not None:
        array *= division.rows[:, None]
    return array
