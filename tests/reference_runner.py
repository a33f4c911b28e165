"""Runs a bundle's graphs by ONNX's reference: every node in the type that the graph says.

ONNX Runtime's CPU computes most half-precision nodes in float32 and rounds what leaves a graph: an
overflow inside one would not be seen.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun

from sparsevlm_trt.runtime.bundle import Bundle
from sparsevlm_trt.runtime.closing import Closing


class RMSNormalization(OpRun):
    """In float32, as the standard's `stash_type` says; ONNX's own squares in half precision."""

    def _run(self, x, scale, axis=None, epsilon=None, stash_type=None):
        assert axis in (-1, x.ndim - 1)
        assert stash_type == 1
        wide = x.astype(np.float32)
        mean = np.mean(wide * wide, axis=-1, keepdims=True)
        normed = (wide / np.sqrt(mean + np.float32(epsilon))).astype(x.dtype)
        return (normed * scale,)


class ReferenceRunner(Closing):
    """Exact in its types, and slow: for tiny models."""

    name = "onnx"
    device = "cpu"

    def __init__(self) -> None:
        self._graphs: dict[str, ReferenceEvaluator] = {}

    def load(self, bundle: Bundle, graphs: Sequence[str]) -> None:
        for name in graphs:
            model = onnx.load(bundle.graph_path(name))
            self._graphs[name] = ReferenceEvaluator(model, new_ops=[RMSNormalization])

    def empty(self, shape: Sequence[int], dtype: Any, /) -> np.ndarray:
        return np.empty(shape, dtype)

    def run(
        self, graph: str, inputs: Mapping[str, Any], into: Mapping[str, Any] | None = None
    ) -> dict[str, Any]:
        evaluator = self._graphs[graph]
        with np.errstate(all="ignore"):
            made = evaluator.run(None, dict(inputs))
        outputs = dict(zip(evaluator.output_names, made, strict=True))
        for name, place in (into or {}).items():
            place[...] = outputs[name]
            outputs[name] = place
        return outputs

    def close(self) -> None:
        self._graphs.clear()
