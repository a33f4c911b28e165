"""Values of a graph being rewritten: new ones, constants, and tensors that are stored."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

__all__ = ["Store", "constant", "dtype_of", "initializer", "new_value"]

# Takes a tensor's name and content, gives what the graph should hold of it.
Store = Callable[[str, ir.Tensor], ir.TensorProtocol]


def dtype_of(value: ir.Value) -> np.dtype[Any]:
    """The array type of a value."""
    assert value.dtype is not None
    dtype: np.dtype[Any] = np.dtype(value.dtype.numpy())
    return dtype


def new_value(name: str, dtype: ir.DataType | None) -> ir.Value:
    """A value to be made by a node."""
    return ir.Value(name=name, type=None if dtype is None else ir.TensorType(dtype))


def initializer(graph: ir.Graph, name: str, tensor: ir.Tensor, store: Store) -> ir.Value:
    """Give a graph a tensor, as the store keeps it."""
    tensor.name = name
    kept = store(name, tensor)
    value = ir.Value(
        name=name, type=ir.TensorType(tensor.dtype), shape=tensor.shape, const_value=kept
    )
    graph.register_initializer(value)
    return value


def constant(graph: ir.Graph, name: str, array: NDArray[Any]) -> ir.Value:
    """Give a graph a small tensor, kept in the graph itself."""
    return initializer(graph, name, ir.Tensor(array), lambda _, tensor: tensor)
