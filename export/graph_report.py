"""What one ONNX file holds, as plain values; its weights are not read."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import onnx

from sparsevlm_trt.runtime.errors import BundleError

__all__ = ["graph_report"]

_NUMPY_NAMES = {"float": "float32", "double": "float64"}
_SMALL_BITS = {
    onnx.TensorProto.INT4: 4,
    onnx.TensorProto.UINT4: 4,
    onnx.TensorProto.FLOAT4E2M1: 4,
    onnx.TensorProto.STRING: 0,
}


def graph_report(path: Path) -> dict[str, Any]:
    """Describe a graph: opsets, inputs, outputs, operators and weights.

    Args:
        path: An ONNX file; its external data may be missing.

    Returns:
        Sizes in bytes; nodes inside subgraphs and functions count as operators too.

    Raises:
        BundleError: The file cannot be read, or is not ONNX.
    """
    try:
        model = onnx.load(path, load_external_data=False)
    except Exception as error:  # protobuf's class for a broken message is not public
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise BundleError(
            f"graph {path} | {reason} | expected an ONNX file | give an .onnx file, or a "
            "bundle's folder"
        ) from error
    if not model.HasField("graph") or not model.opset_import:
        raise BundleError(
            f"graph {path} | holds no graph | expected an ONNX file | give an .onnx file, or a "
            "bundle's folder"
        )
    graph = model.graph
    weights = {weight.name: weight for weight in graph.initializer}
    files = sorted({file for weight in weights.values() if (file := _external_file(weight))})
    nodes = [node for function in model.functions for node in _nodes(function.node)]
    nodes += _nodes(graph.node)
    return {
        "file": str(path),
        "graph_bytes": path.stat().st_size,
        "ir_version": model.ir_version,
        "opsets": {opset.domain: opset.version for opset in model.opset_import},
        "producer": f"{model.producer_name} {model.producer_version}".strip(),
        "inputs": [_tensor(value) for value in graph.input if value.name not in weights],
        "outputs": [_tensor(value) for value in graph.output],
        "operators": dict(sorted(Counter(_operator(node) for node in nodes).items())),
        "num_weights": len(weights),
        "weight_bytes": sum(_weight_bytes(weight) for weight in weights.values()),
        "weight_files": files,
        "missing_files": [file for file in files if not (path.parent / file).is_file()],
    }


def _nodes(nodes: Any) -> Iterator[onnx.NodeProto]:
    """Yield nodes, and those of the subgraphs in their attributes."""
    for node in nodes:
        yield node
        for attribute in node.attribute:
            for graph in (attribute.g, *attribute.graphs):
                yield from _nodes(graph.node)


def _operator(node: onnx.NodeProto) -> str:
    return f"{node.domain}.{node.op_type}" if node.domain else node.op_type


def _tensor(value: onnx.ValueInfoProto) -> dict[str, Any]:
    kind = value.type.tensor_type
    dims = [
        dim.dim_param or (dim.dim_value if dim.HasField("dim_value") else "?")
        for dim in kind.shape.dim
    ]
    dtype = onnx.TensorProto.DataType.Name(kind.elem_type).lower() if kind.elem_type else "other"
    return {"name": value.name, "dtype": _NUMPY_NAMES.get(dtype, dtype), "shape": dims}


def _external_file(weight: onnx.TensorProto) -> str | None:
    if weight.data_location != onnx.TensorProto.EXTERNAL:
        return None
    return next((entry.value for entry in weight.external_data if entry.key == "location"), None)


def _weight_bytes(weight: onnx.TensorProto) -> int:
    """Size by shape and type; 4-bit types fill half a byte."""
    dtype = weight.data_type
    bits: int | None = _SMALL_BITS.get(dtype)
    if bits is None:
        bits = 8 * int(onnx.helper.tensor_dtype_to_np_dtype(dtype).itemsize)
    count: int = math.prod(weight.dims)
    return -(-count * bits // 8)
