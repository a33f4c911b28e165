"""Where a graph multiplies by weights: linears, and the activations that several share.

Dims: K inputs and M outputs of a linear.
"""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

__all__ = ["Linear", "Site", "find_sites"]

# Below this many weights a product is not worth its scales.
FEWEST_WEIGHTS = 1024
FLOATS = (ir.DataType.FLOAT, ir.DataType.FLOAT16)


@dataclass(frozen=True, slots=True, eq=False)
class Linear:
    """A product of an activation and a weight.

    Attributes:
        node: `MatMul` or `Gemm`.
        weight: Its initializer: `[K, M]`, or `[M, K]` where transposed.
        transposed: Whether the weight lies `[M, K]`.
    """

    node: ir.Node
    weight: ir.Value
    transposed: bool

    @property
    def num_weights(self) -> int:
        """K times M."""
        tensor = self.weight.const_value
        assert tensor is not None
        return int(tensor.size)


@dataclass(frozen=True, slots=True, eq=False)
class Site:
    """An activation that one or more linears read, and no other node.

    Attributes:
        name: The graph and the first linear's node, `stage_0/layers.0.mlp.down_proj/MatMul`.
        value: The activation `[..., K]`.
        linears: Its readers, in graph order.
        is_alone: Whether nothing but these linears reads the activation.
    """

    name: str
    value: ir.Value
    linears: tuple[Linear, ...]
    is_alone: bool


def find_sites(graph_name: str, model: ir.Model) -> tuple[Site, ...]:
    """List the sites of a graph, in graph order.

    Products of two activations (attention, scores, clustering) are none, nor are convolutions.
    """
    readers: dict[ir.Value, list[Linear]] = {}
    for node in model.graph:
        linear = _linear(node)
        if linear is not None:
            activation = node.inputs[0]
            assert activation is not None
            readers.setdefault(activation, []).append(linear)
    outputs = set(model.graph.outputs)
    return tuple(
        Site(
            f"{graph_name}/{linears[0].node.name}",
            value,
            tuple(linears),
            value not in outputs
            and {use.node for use in value.uses()} == {linear.node for linear in linears},
        )
        for value, linears in readers.items()
    )


def _linear(node: ir.Node) -> Linear | None:
    if node.op_type not in ("MatMul", "Gemm") or len(node.inputs) < 2:
        return None
    left, right = node.inputs[0], node.inputs[1]
    if left is None or right is None or not right.is_initializer() or left.is_initializer():
        return None
    tensor = right.const_value
    if tensor is None or tensor.dtype not in FLOATS or len(tensor.shape) != 2:
        return None
    if tensor.size < FEWEST_WEIGHTS or len(right.uses()) != 1 or right.is_graph_output():
        return None
    if node.op_type == "MatMul":
        return Linear(node, right, transposed=False)
    attributes = {name: attribute.value for name, attribute in node.attributes.items()}
    plain = attributes.get("alpha", 1.0) == 1.0 and attributes.get("beta", 1.0) == 1.0
    if not plain or attributes.get("transA", 0):
        return None
    return Linear(node, right, transposed=bool(attributes.get("transB", 0)))
