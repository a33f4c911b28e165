"""Write quantised linears into a graph: explicit Q/DQ around the same products.

Dims: K inputs and M outputs of a linear.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from sparsevlm_trt.calibration.balance import Fit, block_of
from sparsevlm_trt.calibration.folding import find_fold
from sparsevlm_trt.calibration.rounding import compensated, nearest
from sparsevlm_trt.calibration.schemes import INT8, Format, Scheme
from sparsevlm_trt.calibration.sites import Linear, Site, find_sites
from sparsevlm_trt.calibration.statistics import Statistics

__all__ = ["Store", "quantize_graph"]

Floats = NDArray[np.float32]
# Takes a tensor's name and content, gives what the graph should hold of it.
Store = Callable[[str, ir.Tensor], ir.TensorProtocol]


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
    for site in sites:
        balance = fits[site.name].balance
        fold = None if balance is None else find_fold(site)
        if balance is None or fold is None:
            continue
        for target in fold.targets:
            columns = divisions.setdefault(str(target.name), _Division()).columns
            columns.append((fold.start, fold.stop, balance))
        for linear in site.linears:
            divisions.setdefault(str(linear.weight.name), _Division()).rows = balance
    weights = {str(linear.weight.name) for site in sites for linear in site.linears}
    for target in sorted(set(divisions) - weights):
        value = model.graph.initializers[target]
        array = _divided(value, divisions[target], transposed=False)
        value.const_value = store(target, ir.Tensor(array.astype(_dtype(value)), name=target))
    for site in sites:
        fit = fits[site.name]
        activations = _quantized_activations(model.graph, site, fit, scheme)
        for linear, activation in zip(site.linears, activations, strict=True):
            division = divisions.get(str(linear.weight.name))
            weight = _divided(linear.weight, division, transposed=linear.transposed)
            seen = statistics.get(site.name)
            moments = seen.moments if seen is not None and scheme.compensates else None
            if moments is not None and fit.balance is not None:
                moments = moments / np.outer(fit.balance, fit.balance)
            _quantize_linear(model.graph, linear, activation, weight, moments, scheme, store)
    return tuple(site.name for site in sites)


def _quantized_activations(
    graph: ir.Graph, site: Site, fit: Fit, scheme: Scheme
) -> list[ir.Value]:
    """Put Q and DQ before each linear of a site.

    ONNX Runtime's integer kernels take a Q and DQ that one product reads, and it merges equal
    ones before it looks for them. So the scales of one site differ by a last digit each.
    """
    # A head's weights are int8 in every scheme, and TensorRT multiplies equal types only.
    mixes = scheme.weights is not INT8 and any(linear.transposed for linear in site.linears)
    if scheme.activations is None or fit.scale is None or mixes:
        return [site.value] * len(site.linears)
    results = []
    dtype = _dtype(site.linears[0].weight)
    scale_array = np.array(fit.scale, dtype)
    for linear in site.linears:
        base = str(linear.node.name)
        scale = _constant(graph, f"{base}.input_scale", scale_array)
        zero = _zeros(graph, f"{base}.input_zero", (), scheme.activations)
        codes = _value(f"{base}.input_codes", scheme.activations.onnx)
        given = [site.value, scale, zero]
        results.append(_value(f"{base}.input", linear.weight.dtype))
        quantize = ir.node("QuantizeLinear", given, outputs=[codes], name=f"{base}/Quantize")
        dequantize = ir.node(
            "DequantizeLinear",
            [codes, scale, zero],
            outputs=results[-1:],
            name=f"{base}/Dequantize",
        )
        graph.insert_before(linear.node, [quantize, dequantize])
        scale_array = np.nextafter(scale_array, np.array(np.inf, dtype))
    return results


def _quantize_linear(
    graph: ir.Graph,
    linear: Linear,
    activation: ir.Value,
    weight: Floats,
    moments: Floats | None,
    scheme: Scheme,
    store: Store,
) -> None:
    """Replace a linear by DQ of its codes and a MatMul."""
    # A weight that lies [M, K] is a head's: one scale a row, so that it can share an embedding's.
    form = INT8 if linear.transposed else scheme.weights
    block = None if linear.transposed else block_of(scheme, weight.shape[0])
    dtype = _dtype(linear.weight)
    if moments is None or linear.transposed:
        made = nearest(weight, form, block, dtype)
    else:
        made = compensated(weight, moments, form, block, dtype)
    name = str(linear.weight.name)
    codes = np.ascontiguousarray(made.codes.T) if linear.transposed else made.codes
    inputs = [
        _initializer(graph, f"{name}.codes", ir.Tensor(codes, form.onnx), store),
        _initializer(graph, f"{name}.scale", ir.Tensor(made.scales), store),
    ]
    attributes: dict[str, Any] = {"axis": 0 if linear.transposed or block is not None else 1}
    if block is not None:
        attributes["block_size"] = block
    else:
        # ONNX Runtime's integer kernels want zero points; TensorRT takes them if they are zero.
        inputs.append(_zeros(graph, f"{name}.zero", made.scales.shape, form))
    node = linear.node
    values = _value(f"{name}.values", linear.weight.dtype)
    base = str(node.name)
    made_nodes = [
        ir.node("DequantizeLinear", inputs, attributes, outputs=[values], name=f"{base}/Weights")
    ]
    if linear.transposed:
        turned = _value(f"{name}.turned", linear.weight.dtype)
        made_nodes.append(
            ir.node("Transpose", [values], {"perm": [1, 0]}, outputs=[turned], name=f"{base}/Turn")
        )
        values = turned
    if node.op_type == "MatMul":
        node.replace_input_with(0, activation)
        node.replace_input_with(1, values)
        graph.insert_before(node, made_nodes)
    else:
        _replace_gemm(graph, node, activation, values, made_nodes)
    del graph.initializers[name]


def _replace_gemm(
    graph: ir.Graph, node: ir.Node, activation: ir.Value, values: ir.Value, before: list[ir.Node]
) -> None:
    """Write a Gemm as MatMul and Add, the form that every engine has integer kernels for."""
    output = node.outputs[0]
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    base = str(node.name)
    made = [*before, ir.node("MatMul", [activation, values], name=f"{base}/MatMul")]
    if bias is not None:
        made.append(ir.node("Add", [made[-1].outputs[0], bias], name=f"{base}/Add"))
    result = made[-1].outputs[0]
    name, result.dtype, result.shape = output.name, output.dtype, output.shape
    output.name = f"{name}.before"
    ir.convenience.replace_nodes_and_values(graph, node, [node], made, [output], [result])
    result.name = name


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


def _dtype(value: ir.Value) -> np.dtype[Any]:
    assert value.dtype is not None
    dtype: np.dtype[Any] = np.dtype(value.dtype.numpy())
    return dtype


def _value(name: str, dtype: ir.DataType | None) -> ir.Value:
    return ir.Value(name=name, type=None if dtype is None else ir.TensorType(dtype))


def _initializer(graph: ir.Graph, name: str, tensor: ir.Tensor, store: Store) -> ir.Value:
    tensor.name = name
    kept = store(name, tensor)
    value = ir.Value(
        name=name, type=ir.TensorType(tensor.dtype), shape=tensor.shape, const_value=kept
    )
    graph.register_initializer(value)
    return value


def _constant(graph: ir.Graph, name: str, array: NDArray[Any]) -> ir.Value:
    return _initializer(graph, name, ir.Tensor(array), lambda _, tensor: tensor)


def _zeros(graph: ir.Graph, name: str, shape: tuple[int, ...], form: Format) -> ir.Value:
    return _constant(graph, name, np.zeros(shape, form.numpy))
