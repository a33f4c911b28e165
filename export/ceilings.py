"""The ceilings of a machine, measured on the spot: one product with many rows, and with one.

Sixty products with weights of their own, of an MLP's shape, more than any cache holds: with 256
rows the time is that of the arithmetic, with one row that of reading the weights.
"""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from sparsevlm_trt.runtime.bench.contender import OursContender
from sparsevlm_trt.runtime.bench.roofline import Ceilings
from sparsevlm_trt.runtime.errors import RunnerError
from sparsevlm_trt.runtime.flops import DTYPE_BYTES
from sparsevlm_trt.runtime.openvino.runner import OpenVinoRunner
from sparsevlm_trt.runtime.ort import OnnxRuntimeRunner
from sparsevlm_trt.runtime.runner import Runner

__all__ = ["Products", "measure_ceilings"]

_NAME = "ceilings"
_WIDTHS = (576, 1536)
_NUM_PRODUCTS = 60
_ROWS = 256
_TRIES = 3


class Products:
    """Matrix products and nothing else, on a runner's own threads.

    Attributes:
        num_weights: Values of all weights; each is read once.
    """

    num_weights = _WIDTHS[0] * _WIDTHS[1] * _NUM_PRODUCTS

    def __init__(self, runner: Runner) -> None:
        """Load them.

        Raises:
            RunnerError: The engine is none that computes on the processor.
        """
        if isinstance(runner, OpenVinoRunner):
            runner.put(_NAME, _products())
        elif isinstance(runner, OnnxRuntimeRunner) and runner.device == "cpu":
            runner.put(_NAME, _products(), Path())
        else:
            raise RunnerError(
                f"roofline | got runner {runner.name} on {runner.device} | expected onnxruntime "
                "or openvino on the processor | leave --roofline out"
            )
        self._runner = runner

    def flops_per_s(self, rows: int) -> float:
        """Operations a second with so many rows."""
        return 2 * self.num_weights * rows / self.seconds(rows)

    def seconds(self, rows: int) -> float:
        """Time all products with so many rows: the best of some tries, the first one apart."""
        x = np.ones((rows, _WIDTHS[0]), np.float32)
        self._runner.run(_NAME, {"x": x})
        taken = []
        for _ in range(_TRIES):
            started = time.perf_counter()
            self._runner.run(_NAME, {"x": x})
            taken.append(time.perf_counter() - started)
        return min(taken)


def measure_ceilings(contender: OursContender) -> Ceilings:
    """Measure what a contender's engine reaches.

    Raises:
        RunnerError: The engine is none that computes on the processor.
    """
    products = Products(contender.session.runner)
    num_bytes = products.num_weights * DTYPE_BYTES[contender.dtype]
    return Ceilings(contender.dtype, products.flops_per_s(_ROWS), num_bytes / products.seconds(1))


def _products() -> bytes:
    """Products one after the other, there and back, so that none can be left out."""
    generator = np.random.default_rng(0)
    nodes, weights, last = [], [], "x"
    for number in range(_NUM_PRODUCTS):
        shape = _WIDTHS if number % 2 == 0 else _WIDTHS[::-1]
        values = generator.standard_normal(shape, np.float32) * np.float32(shape[0] ** -0.5)
        weights.append(numpy_helper.from_array(values, f"w{number}"))
        nodes.append(helper.make_node("MatMul", [last, f"w{number}"], [f"y{number}"]))
        last = f"y{number}"
    graph = helper.make_graph(
        nodes,
        "ceilings",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["rows", _WIDTHS[0]])],
        [helper.make_tensor_value_info(last, TensorProto.FLOAT, ["rows", _WIDTHS[0]])],
        weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 23)], ir_version=10)
    return bytes(model.SerializeToString())
