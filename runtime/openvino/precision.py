"""Which type each graph computes in, and how a narrow one's weights are stored.

A decision that flips costs more than a rounding: graphs that decide compute in float32 whatever
the rest does.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, Literal

import numpy as np

from sparsevlm_trt.runtime.errors import RunnerError
from sparsevlm_trt.runtime.graph_spec import decides

__all__ = ["Precision", "graph_precision", "narrow_weights", "pick_precision"]

Precision = Literal["f32", "bf16", "f16"]

_BY_DTYPE: dict[str, Precision] = {"float32": "f32", "bfloat16": "bf16", "float16": "f16"}
_CAPABILITIES = {"bf16": "BF16", "f16": "FP16"}
_UNPACK = "decompression_0"  # rt_info that marks a Convert as the unpacking of a stored weight
_LARGE = 1 << 16  # values; smaller constants are not worth narrowing


def pick_precision(dtype: str | None, device: str, capabilities: Collection[str]) -> Precision:
    """Choose the type that stages, head and vision compute in.

    Args:
        dtype: "float32", "bfloat16" or "float16"; None: bfloat16 where a processor multiplies
            it in hardware, float16 on other devices, else float32.
        device: OpenVINO's name of the device.
        capabilities: Its OPTIMIZATION_CAPABILITIES.

    Raises:
        RunnerError: An unknown dtype, or one that the device does not compute in.
    """
    if dtype is None:
        if device == "CPU":
            return "bf16" if "BF16" in capabilities else "f32"
        return "f16" if "FP16" in capabilities else "f32"
    precision = _BY_DTYPE.get(dtype)
    if precision is None:
        raise RunnerError(
            f"runner openvino | got dtype {dtype!r} | expected one of: {', '.join(_BY_DTYPE)} | "
            "leave it out to let the device decide"
        )
    if _CAPABILITIES.get(precision, "FP32") not in {*capabilities, "FP32"}:
        raise RunnerError(
            f"runner openvino | got dtype {dtype} | expected a type that {device} multiplies: "
            f"{', '.join(sorted(capabilities))} | leave it out, or use float32"
        )
    return precision


def graph_precision(graph: str, precision: Precision) -> Precision:
    """Return the type of one graph: `embed` copies rows, others decide."""
    return "f32" if graph == "embed" or decides(graph) else precision


def narrow_weights(model: Any) -> list[Any]:
    """Store large float32 constants as bfloat16, rounded to nearest even as the engine does.

    The engine would keep them in both types; this halves file and memory. Weights of products are
    turned to `[out, in]`, the way that the engine reads them.

    Args:
        model: An openvino.Model; changed in place.

    Returns:
        The new weights' memory, to be kept until the model is written.
    """
    import openvino as ov
    from openvino import opset13 as ops

    memory = []
    for node in model.get_ordered_ops():
        if node.get_type_name() != "Constant" or node.get_element_type() != ov.Type.f32:
            continue
        if np.prod(node.get_output_shape(0)) < _LARGE:
            continue
        product = _only_product(node)
        bits = bfloat16_bits(node.data if product is None else node.data.T)
        memory.append(bits)
        stored = ops.constant(ov.Tensor(bits, bits.shape, ov.Type.bf16))
        unpacked = ops.convert(stored, "f32")
        unpacked.get_rt_info()[_UNPACK] = ""
        unpacked.set_friendly_name(node.get_friendly_name())
        if product is None:
            node.output(0).replace(unpacked.output(0))
        else:
            turned = ops.matmul(product.input_value(0), unpacked, False, True)
            turned.set_friendly_name(product.get_friendly_name())
            _replace(product, turned)
    return memory


def bfloat16_bits(values: Any) -> Any:
    """Round float32 to bfloat16, returned as the uint16 that holds its bits."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    rounded = bits + (np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1)))
    return (rounded >> np.uint32(16)).astype(np.uint16)


def _only_product(weight: Any) -> Any | None:
    """The product that reads a matrix `[in, out]` as it lies, if nothing else does."""
    readers = list(weight.output(0).get_target_inputs())
    node = readers[0].get_node() if len(readers) == 1 else None
    if node is None or node.get_type_name() != "MatMul" or len(weight.get_output_shape(0)) != 2:
        return None
    options = node.get_attributes()
    plain = not options["transpose_a"] and not options["transpose_b"]
    return node if plain and readers[0].get_index() == 1 else None


def _replace(old: Any, new: Any) -> None:
    """Put a node in the place of another, names of outputs included."""
    names = old.output(0).get_names()
    old.output(0).replace(new.output(0))
    new.output(0).set_names(names | new.output(0).get_names())
