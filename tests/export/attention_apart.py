"""What a change of a graph could do: attention in small nodes, which no builder fuses."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import onnx


class Heads(Protocol):
    """Heads of an attention: a `ModelSpec`, or what a tower has."""

    num_heads: int
    num_kv_heads: int
    head_dim: int


def take_apart(model: onnx.ModelProto, shape: Heads) -> None:
    """Write every Attention of a graph as products and a softmax."""
    groups, heads, size = shape.num_kv_heads, shape.num_heads, shape.head_dim
    constants = {
        "query_shape": np.array([0, 0, groups, heads // groups, size]),
        "key_shape": np.array([0, 0, groups, 1, size]),
        "out_shape": np.array([0, 0, heads * size]),
        "scale": np.array(size**-0.5, np.float16),
        "axis": np.array([2]),
    }
    nodes = []
    for number, node in enumerate(model.graph.node):
        if node.op_type != "Attention":
            nodes.append(node)
            continue

        def made(op: str, *inputs: str, number: int = number, **attributes: Any) -> str:
            name = f"apart_{number}_{len(nodes)}"
            nodes.append(onnx.helper.make_node(op, inputs, [name], **attributes))
            return name

        query, key, value, mask = node.input[:4]
        rows = made("Transpose", made("Reshape", query, "query_shape"), perm=[0, 2, 3, 1, 4])
        keys = made("Transpose", made("Reshape", key, "key_shape"), perm=[0, 2, 3, 4, 1])
        values = made("Transpose", made("Reshape", value, "key_shape"), perm=[0, 2, 3, 1, 4])
        scores = made("Tanh", made("Mul", made("MatMul", rows, keys), "scale"))
        masked = made("Add", scores, made("Unsqueeze", mask, "axis"))
        mixed = made("MatMul", made("Softmax", masked, axis=-1), values)
        flat = made("Reshape", made("Transpose", mixed, perm=[0, 3, 1, 2, 4]), "out_shape")
        nodes.append(onnx.helper.make_node("Identity", [flat], [node.output[0]]))
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    for name, array in constants.items():
        model.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
