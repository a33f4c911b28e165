"""Graphs of a bundle as models in memory."""

from __future__ import annotations

import onnx_ir as ir

from sparsevlm_trt.runtime.bundle import Bundle

__all__ = ["load_model", "model_bytes"]


def load_model(bundle: Bundle, graph: str) -> ir.Model:
    """Load a graph; its large weights stay on the disk until they are read."""
    return ir.load(bundle.graph_path(graph))


def model_bytes(model: ir.Model) -> bytes:
    """Spell a model as ONNX; weights that it has outside stay there."""
    content: bytes = ir.to_proto(model).SerializeToString()
    return content
