"""One inference: numpy arrays in and out of a request without a copy on the way."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from sparsevlm_trt.runtime.errors import RunnerError
from sparsevlm_trt.runtime.openvino.compiler import CompiledGraph, brief
from sparsevlm_trt.runtime.runner import Array

__all__ = ["infer"]


def infer(
    compiled: CompiledGraph,
    request: Any,
    inputs: Mapping[str, Any],
    into: Mapping[str, Any],
) -> dict[str, Any]:
    """Run a graph.

    Args:
        compiled: The graph.
        request: One of its requests.
        inputs: All its inputs; contiguous, writable ones are read where they lie.
        into: Where some outputs go; the engine writes them there itself.

    Returns:
        All outputs by name.

    Raises:
        RunnerError: An input is missing or does not fit, or the engine failed.
    """
    from openvino import Tensor

    missing = [name for name in compiled.inputs if name not in inputs]
    if missing:
        raise RunnerError(
            f"graph {compiled.name} | got no {', '.join(missing)} | expected all of: "
            f"{', '.join(compiled.inputs)} | export the bundle again"
        )
    unknown = [name for name in into if name not in compiled.outputs]
    if unknown:
        raise RunnerError(
            f"graph {compiled.name} | got a place for {', '.join(unknown)} | expected outputs: "
            f"{', '.join(compiled.outputs)} | export the bundle again"
        )
    held = []  # the engine sees the arrays' memory: they must outlive the call
    try:
        for name in compiled.inputs:
            # A read-only array is copied: the engine takes none.
            array = np.require(inputs[name], requirements=("C", "W"))
            held.append(array)
            request.set_tensor(name, Tensor(array, shared_memory=True))
        outputs: dict[str, Any] = {}
        for name, place in into.items():
            request.set_tensor(name, Tensor(place, shared_memory=True))
        request.infer()
        for number, name in enumerate(compiled.outputs):
            given = request.get_output_tensor(number)
            if name in into:
                _check_place(compiled.name, name, given, into[name])
                outputs[name] = into[name]
            else:
                outputs[name] = np.array(given.data)
    except RuntimeError as error:
        shapes = {name: list(array.shape) for name, array in inputs.items()}
        small = ", ".join(f"{name} {shape}" for name, shape in list(shapes.items())[:6])
        raise RunnerError(
            f"graph {compiled.name} | {brief(error)} | got {small} | check the bundle with "
            "its parity report"
        ) from error
    finally:
        # A request keeps the tensors it was given: the next call, which may have no place for
        # this output or another shape, would find this call's memory.
        for name in into:
            _let_go(request, name)
    return outputs


def _let_go(request: Any, name: str) -> None:
    """Give an output back to the engine, which makes room for it when it runs."""
    from openvino import Shape, Tensor

    old = request.get_tensor(name)
    request.set_tensor(name, Tensor(old.element_type, Shape([0] * len(old.shape))))


def _check_place(graph: str, name: str, given: Any, place: Array) -> None:
    """Refuse a place that did not fit: the engine took another, or left a part of it."""
    moved = given.data.ctypes.data != place.ctypes.data and place.size
    if moved or tuple(given.shape) != place.shape:
        raise RunnerError(
            f"graph {graph} | output {name}: got {given.element_type} {list(given.shape)} | "
            f"expected {place.dtype} {list(place.shape)} | export the bundle again"
        )
