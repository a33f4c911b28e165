"""Float32 islands: nodes of a float16 graph that compute in float32, with casts at the rim."""

from __future__ import annotations

from collections.abc import Mapping

import onnx_ir as ir

from sparsevlm_trt.export.scan_report import FLOAT16_MAX
from sparsevlm_trt.runtime.errors import ExportError

__all__ = ["widen"]

# TensorRT builds it in half precision only.
_HALF_ONLY = ("Attention",)
# Their results are as large as what they read. The scan names such nodes by their number where
# they belong to no module, and that differs with the cut.
_WHOLE = ("Expand", "Identity", "Reshape", "Split", "Squeeze", "Transpose", "Unsqueeze")


def widen(model: ir.Model, name: str, magnitudes: Mapping[str, float]) -> tuple[str, ...]:
    """Let the nodes that make or read a large tensor compute in float32.

    A weight that such a node reads is cast as it is read; the file stays half precision.

    Args:
        model: Traced in float16; changed in place. A float32 one stays as it is.
        name: The graph's name, for errors.
        magnitudes: What the results of nodes reach, by the node's name; others are ignored.

    Returns:
        The nodes that compute in float32 now, in order.

    Raises:
        ExportError: A tensor beyond float16's limit leaves the graph, or is read or made by an
            operator that has no float32 form; names each.
    """
    large: dict[ir.Value, float] = {}
    for node in model.graph:
        size = magnitudes.get(str(node.name), 0.0)
        if node.op_type in _WHOLE and node.inputs[0] is not None:
            size = max(size, large.get(node.inputs[0], 0.0))
        if size:
            half = [value for value in node.outputs if value.dtype == ir.DataType.FLOAT16]
            large |= dict.fromkeys(half, size)
    blocked = [(value, _obstacle(value), size) for value, size in large.items()]
    lost = [
        f"node {_made_by(value)} reaches {size:.4g}, and {why}"
        for value, why, size in blocked
        if why and size > FLOAT16_MAX
    ]
    if lost:
        raise ExportError(
            f"graph {name} | {'; '.join(lost)} | expected below {FLOAT16_MAX:.0f}, or what can be "
            "float32 | export with --dtype float32"
        )
    island = {
        node
        for value, why, _ in blocked
        if not why
        for node in (value.producer(), *(use.node for use in value.uses()))
        if node is not None
    }
    nodes = [node for node in model.graph if node in island]
    casts: dict[ir.Value, ir.Value] = {}
    for node in nodes:
        _widen_inputs(model.graph, node, island, casts)
    for node in nodes:
        _narrow_outputs(model.graph, node, island)
    return tuple(str(node.name) for node in nodes)


def _obstacle(value: ir.Value) -> str:
    """Why a tensor cannot be float32; empty where it can."""
    if value.is_graph_output():
        return f"leaves the graph as {value.name}"
    users = [value.producer(), *(use.node for use in value.uses())]
    half = sorted({node.op_type for node in users if node and node.op_type in _HALF_ONLY})
    return f"{half[0]} has no float32 form" if half else ""


def _widen_inputs(
    graph: ir.Graph, node: ir.Node, island: set[ir.Node], casts: dict[ir.Value, ir.Value]
) -> None:
    """Cast what comes from outside, once for all readers; results become float32."""
    for place, value in enumerate(node.inputs):
        if value is None or value.dtype != ir.DataType.FLOAT16 or value.producer() in island:
            continue
        if value not in casts:
            cast = _cast(value, ir.DataType.FLOAT, f"{value.name}_float32")
            graph.insert_before(node, cast)
            casts[value] = cast.outputs[0]
        node.replace_input_with(place, casts[value])
    if node.op_type == "Cast" and node.attributes["to"].as_int() == ir.DataType.FLOAT16:
        node.attributes["to"] = ir.AttrInt64("to", ir.DataType.FLOAT)


def _narrow_outputs(graph: ir.Graph, node: ir.Node, island: set[ir.Node]) -> None:
    """Cast results for those outside who read them, or for the graph's own outputs."""
    for value in node.outputs:
        if value.dtype != ir.DataType.FLOAT16:
            continue
        value.dtype = ir.DataType.FLOAT
        outside = [use for use in value.uses() if use.node not in island]
        if not outside and not value.is_graph_output():
            continue
        cast = _cast(value, ir.DataType.FLOAT16, f"{value.name}_float16")
        graph.insert_after(node, cast)
        narrow = cast.outputs[0]
        for use in outside:
            use.node.replace_input_with(use.idx, narrow)
        for place, output in enumerate(graph.outputs):
            if output is value:
                name, value.name = value.name, f"{value.name}_float32"
                narrow.name = name
                graph.outputs[place] = narrow


def _cast(value: ir.Value, dtype: ir.DataType, name: str) -> ir.Node:
    cast = ir.node("Cast", [value], {"to": dtype}, name=f"{name}/Cast")
    (made,) = cast.outputs
    made.name, made.dtype, made.shape = name, dtype, value.shape
    return cast


def _made_by(value: ir.Value) -> str:
    node = value.producer()
    return str(node.name) if node is not None else str(value.name)
