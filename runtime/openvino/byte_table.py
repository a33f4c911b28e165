"""An embedding table of bytes, read as bytes: OpenVINO divides int32 in float32 on a processor.

A quantised bundle keeps four numbers of a row in an int32, and takes them apart by division and
remainder (`calibration/table.py`). Words beyond 2^24 lose their low bytes in float32.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from sparsevlm_trt.runtime.graph_spec import TABLE_WORDS

__all__ = ["read_bytes"]


def read_bytes(model: Any) -> None:
    """Gather rows of bytes in place of rows of words.

    Args:
        model: An openvino.Model; changed in place where it has such a table.
    """
    from openvino import opset13 as ops

    for node in model.get_ordered_ops():
        if node.get_type_name() != "Gather":
            continue
        words, ids, axis = (node.input_value(port) for port in range(3))
        if not words.get_node().get_friendly_name().endswith(f".{TABLE_WORDS}"):
            continue
        table = words.get_node().data
        codes = np.ascontiguousarray(table).view(np.int8).reshape(len(table), -1)
        rows = ops.gather(ops.constant(codes), ids, axis)
        last = _conversion_after(node)
        numbers = ops.convert(rows, last.get_element_type())
        numbers.set_friendly_name(last.get_friendly_name())
        last.output(0).replace(numbers.output(0))
        model.validate_nodes_and_infer_types()
        return


def _conversion_after(node: Any) -> Any:
    """The conversion to floating point that the arithmetic after a node ends in."""
    ahead = [node]
    while ahead:
        for reader in ahead.pop().output(0).get_target_inputs():
            if reader.get_node().get_type_name() == "Convert":
                return reader.get_node()
            ahead.append(reader.get_node())
    raise RuntimeError(f"table {node.get_friendly_name()}: its words become no numbers")
