"""Before a product of whole numbers: divide an activation's channels or rows, then Q and DQ."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from sparsevlm_trt.calibration.balance import LEAST_ROW, Fit
from sparsevlm_trt.calibration.graph_values import constant, dtype_of, new_value
from sparsevlm_trt.calibration.schemes import INT8, Scheme
from sparsevlm_trt.calibration.sites import Site

__all__ = ["divide_channels", "divide_rows", "quantize_activation"]


def divide_channels(graph: ir.Graph, site: Site, balance: NDArray[np.float32]) -> ir.Value:
    """Divide an activation by an operator of its own, for the linears of its site."""
    linear = site.linears[0]
    base = str(linear.node.name)
    factor = constant(graph, f"{base}.balance", (1 / balance).astype(dtype_of(linear.weight)))
    result = new_value(f"{base}.balanced", linear.weight.dtype)
    node = ir.node("Mul", [site.value, factor], outputs=[result], name=f"{base}/Balance")
    graph.insert_before(linear.node, [node])
    return result


def divide_rows(graph: ir.Graph, site: Site, value: ir.Value) -> tuple[ir.Value, ir.Value]:
    """Divide each row of an activation by its largest magnitude; the rows, and what divided them.

    A scale for every token in constants alone, which all engines have integer kernels for.
    """
    linear = site.linears[0]
    base, dtype = str(linear.node.name), linear.weight.dtype
    axes = constant(graph, f"{base}.row_axis", np.array([-1]))
    least = constant(graph, f"{base}.row_least", np.array(LEAST_ROW, dtype_of(linear.weight)))
    size, most, scale, rows = (
        new_value(f"{base}.row_{part}", dtype) for part in ("size", "most", "scale", "values")
    )
    made = [
        ir.node("Abs", [value], outputs=[size], name=f"{base}/RowSize"),
        ir.node(
            "ReduceMax", [size, axes], {"keepdims": 1}, outputs=[most], name=f"{base}/RowMost"
        ),
        ir.node("Max", [most, least], outputs=[scale], name=f"{base}/RowScale"),
        ir.node("Div", [value, scale], outputs=[rows], name=f"{base}/RowValues"),
    ]
    graph.insert_before(linear.node, made)
    return rows, scale


def quantize_activation(
    graph: ir.Graph, site: Site, value: ir.Value, fit: Fit, scheme: Scheme
) -> list[ir.Value]:
    """Put Q and DQ before each linear of a site.

    ONNX Runtime's integer kernels take a Q and DQ that one product reads, and it merges equal
    ones before it looks for them. So the scales of one site differ by a last digit each.
    """
    # A head's weights are int8 in every scheme, and TensorRT multiplies equal types only.
    mixes = scheme.weights is not INT8 and any(linear.transposed for linear in site.linears)
    if scheme.activations is None or fit.scale is None or mixes:
        return [value] * len(site.linears)
    results = []
    dtype = dtype_of(site.linears[0].weight)
    scale_array = np.array(fit.scale, dtype)
    for linear in site.linears:
        base = str(linear.node.name)
        scale = constant(graph, f"{base}.input_scale", scale_array)
        zero = constant(graph, f"{base}.input_zero", np.zeros((), scheme.activations.numpy))
        codes = new_value(f"{base}.input_codes", scheme.activations.onnx)
        given = [value, scale, zero]
        results.append(new_value(f"{base}.input", linear.weight.dtype))
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
