"""A stage whose cache is int8: keys and values leave it as codes and come back as codes.

The tokens of a call attend to each other as they were; only what is remembered is rounded. So the
scores of a prompt, and with them what is pruned, are those of the cache in the model's type.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from sparsevlm_trt.calibration.graph_values import constant, dtype_of, new_value
from sparsevlm_trt.calibration.rounding import LEAST_SCALE
from sparsevlm_trt.calibration.schemes import INT8

__all__ = ["NEW_ENTRIES", "quantize_cache"]

PAST_ENTRIES, NEW_ENTRIES = "past_key_values.", "new_key_values."


def quantize_cache(model: ir.Model, largest: Mapping[str, NDArray[np.float32]]) -> bool:
    """Give a graph int8 caches, in place; a graph without a cache stays as it is.

    Args:
        model: The graph; inputs `past_key_values.{layer}.{part}` and outputs
            `new_key_values.{layer}.{part}`, `[B, L, G*D]` each.
        largest: Largest magnitude of each channel that was seen, `[G*D]`, by output.

    Returns:
        Whether the graph has a cache.
    """
    graph = model.graph
    past = [value for value in graph.inputs if str(value.name).startswith(PAST_ENTRIES)]
    for value in past:
        name = str(value.name)
        entry = name.removeprefix(PAST_ENTRIES)
        dtype = dtype_of(value)
        scales = np.maximum(largest[NEW_ENTRIES + entry] / INT8.largest, LEAST_SCALE[dtype])
        _read_codes(graph, value, scales.astype(dtype))
        _write_codes(graph, NEW_ENTRIES + entry, (1 / scales).astype(dtype))
    return bool(past)


def _read_codes(graph: ir.Graph, value: ir.Value, scales: NDArray[Any]) -> None:
    """Let an input hold codes, and what read it read their values."""
    base = str(value.name)
    units, values = (new_value(f"{base}.{part}", value.dtype) for part in ("units", "values"))
    values.shape = value.shape
    value.replace_all_uses_with(values)
    value.dtype = INT8.onnx
    nodes = [
        ir.node(
            "DequantizeLinear",
            [value, *_whole(graph, base, scales.dtype)],
            outputs=[units],
            name=f"{base}/Dequantize",
        ),
        ir.node(
            "Mul",
            [units, constant(graph, f"{base}.scales", scales)],
            outputs=[values],
            name=f"{base}/Scale",
        ),
    ]
    graph.insert_before(graph[0], nodes)


def _write_codes(graph: ir.Graph, name: str, factors: NDArray[Any]) -> None:
    """Let an output hold codes of what it was, times the factors."""
    position = next(i for i, output in enumerate(graph.outputs) if output.name == name)
    output = graph.outputs[position]
    output.name = f"{name}.values"
    units, codes = new_value(f"{name}.units", output.dtype), new_value(name, INT8.onnx)
    codes.shape = output.shape
    nodes = [
        ir.node(
            "Mul",
            [output, constant(graph, f"{name}.factors", factors)],
            outputs=[units],
            name=f"{name}/Scale",
        ),
        ir.node(
            "QuantizeLinear",
            [units, *_whole(graph, name, factors.dtype)],
            outputs=[codes],
            name=f"{name}/Quantize",
        ),
    ]
    graph.extend(nodes)
    graph.outputs[position] = codes


def _whole(graph: ir.Graph, name: str, dtype: np.dtype[Any]) -> tuple[ir.Value, ir.Value]:
    """A scale of one, and zero: engines take one scale a tensor where it is no weight."""
    scale = constant(graph, f"{name}.one", np.ones((), dtype))
    return scale, constant(graph, f"{name}.zero", np.zeros((), np.int8))
