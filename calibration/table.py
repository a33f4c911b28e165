"""An embedding table of one byte a number, read row by row without unpacking the rest.

Dims: V rows of the table, N numbers of a row.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from sparsevlm_trt.calibration.graph_values import Store
from sparsevlm_trt.calibration.rounding import nearest
from sparsevlm_trt.calibration.schemes import INT8
from sparsevlm_trt.runtime.graph_spec import TABLE_WORDS

__all__ = ["quantize_table"]

BYTES = 4  # of an int32, which holds so many numbers of a row


def quantize_table(model: ir.Model, store: Store) -> bool:
    """Quantise the table of an embedding graph in place, one scale a row.

    `DequantizeLinear` before the `Gather` would unpack the whole table for every token in ONNX
    Runtime, and TensorRT keeps an int8 constant small only before `DequantizeLinear`. So the
    bytes are read as int32, four at once, and taken apart by arithmetic that both compute: byte
    k is floor(x / 2^8k) mod 256, signed. The file is the very one of a tied head's codes.

    Returns:
        Whether there was a table that can be quantised.
    """
    for node in model.graph:
        table = node.inputs[0] if node.op_type == "Gather" else None
        if table is None or not table.is_initializer() or table.const_value is None:
            continue
        tensor, ids = table.const_value, node.inputs[1]
        if tensor.dtype not in (ir.DataType.FLOAT, ir.DataType.FLOAT16) or ids is None:
            continue
        if len(tensor.shape) != 2 or tensor.shape.numpy()[1] % BYTES or len(table.uses()) != 1:
            continue
        _replace(model.graph, node, table, ids, store)
        return True
    return False


def _replace(graph: ir.Graph, node: ir.Node, table: ir.Value, ids: ir.Value, store: Store) -> None:
    assert table.const_value is not None
    assert table.dtype is not None
    dtype = np.dtype(table.dtype.numpy())
    weight = np.ascontiguousarray(table.const_value.numpy().astype(np.float32).T)
    made = nearest(weight, INT8, None, dtype)
    codes = np.ascontiguousarray(made.codes.T)  # [V, N]
    num_columns = codes.shape[1]

    def constant(name: str, array: NDArray[Any]) -> ir.Value:
        full = f"{table.name}.{name}"
        tensor = ir.Tensor(array, name=full)
        value = ir.Value(
            name=full,
            type=ir.TensorType(tensor.dtype),
            shape=tensor.shape,
            const_value=store(full, tensor),
        )
        graph.register_initializer(value)
        return value

    words = constant(TABLE_WORDS, codes.view(np.int32))
    scales = constant("scale", made.scales[:, None])
    powers = constant("powers", np.array([1, 1 << 8, 1 << 16, 1 << 24], np.int32))
    byte = constant("byte", np.array([256], np.int32))
    half = constant("half", np.array([128], np.int32))
    last = constant("last", np.array([-1], np.int64))
    shape = constant("shape", np.array([0, 0, num_columns], np.int64))
    made_nodes: list[ir.Node] = []

    def apply(op: str, *inputs: ir.Value, **attributes: int) -> ir.Value:
        name = f"{node.name}/{op}_{len(made_nodes)}"
        made_nodes.append(ir.node(op, inputs, attributes, name=name))
        return made_nodes[-1].outputs[0]

    word = apply("Unsqueeze", apply("Gather", words, ids), last)  # [B, S, N/4, 1]
    # Integer division drops what is behind the point: take it off first, so that it is a floor.
    floor = apply("Div", apply("Sub", word, apply("Mod", word, powers)), powers)
    shifted = apply("Mod", apply("Add", apply("Mod", floor, byte), half), byte)
    signed = apply("Reshape", apply("Sub", shifted, half), shape)
    rows = apply("Cast", signed, to=int(table.dtype))
    result = apply("Mul", rows, apply("Gather", scales, ids))
    output = node.outputs[0]
    name, result.dtype, result.shape = output.name, output.dtype, output.shape
    output.name = f"{name}.before"
    ir.convenience.replace_nodes_and_values(graph, node, [node], made_nodes, [output], [result])
    result.name = name
    del graph.initializers[str(table.name)]
