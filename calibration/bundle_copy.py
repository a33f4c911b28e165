"""A new bundle from another: graphs as they were or changed, weights stored once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir

from sparsevlm_trt.export.bundle_writer import BundleWriter
from sparsevlm_trt.runtime.bundle import Bundle
from sparsevlm_trt.runtime.graph_spec import GraphSpec
from sparsevlm_trt.runtime.wiring import WEIGHTS_PREFIX

__all__ = ["BundleCopy"]

INLINE_BYTES = 64 * 1024  # as the exporter: smaller tensors live inside the graph
REPORTS_PREFIX = "reports/"


class BundleCopy:
    """Fills a writer from a bundle.

    Args:
        source: The bundle to copy from.
        writer: The one to be.
    """

    def __init__(self, source: Bundle, writer: BundleWriter) -> None:
        """Copy nothing yet."""
        self._source, self._writer = source, writer

    def add_files(self) -> None:
        """Copy what is neither graph, weight nor report."""
        for relpath in self._source.manifest.files:
            if not relpath.startswith((WEIGHTS_PREFIX, REPORTS_PREFIX)):
                self._writer.add_file(relpath, self._source.path / relpath)

    def add_graph(self, name: str) -> GraphSpec:
        """Copy a graph as it is."""
        spec = self._source.manifest.graphs[name]
        self._writer.graph_path(name).write_bytes(self._source.graph_path(name).read_bytes())
        files = [self._add_file(self._source.path / relpath) for relpath in spec.weights]
        return self._writer.graph_spec(name, spec.inputs, spec.outputs, files)

    def add_model(self, name: str, model: ir.Model) -> GraphSpec:
        """Write a changed graph; its inputs and outputs are those of the old one.

        Tensors that `store` has stored are there already; others are copied.
        """
        files: list[str] = []
        for value in model.graph.initializers.values():
            tensor = value.const_value
            if not isinstance(tensor, ir.ExternalTensor):
                continue
            location, path = tensor.location, Path(tensor.base_dir) / tensor.location
            if not path.is_relative_to(self._writer.path):
                outside = self._outside(tensor, self._add_file(path))
                value.const_value, location = outside, outside.location
            files.append(f"graphs/{location}")
        ir.save(model, self._writer.graph_path(name))
        spec = self._source.manifest.graphs[name]
        return self._writer.graph_spec(name, spec.inputs, spec.outputs, files)

    def store(self, name: str, tensor: ir.Tensor) -> ir.TensorProtocol:
        """Store a tensor in a file if it is large; what the graph should hold of it."""
        if tensor.nbytes < INLINE_BYTES:
            return tensor
        return self._outside(tensor, self._writer.add_weight(name, tensor.tobytes()))

    def _add_file(self, path: Path) -> str:
        """Copy a weight file; its name is its hash, so it keeps it."""
        return self._writer.add_weight(path.name, np.memmap(path, np.uint8, "r"))

    def _outside(self, tensor: ir.TensorProtocol, file: str) -> ir.ExternalTensor:
        return ir.ExternalTensor(
            location=file.removeprefix("graphs/"),
            offset=0,
            length=tensor.nbytes,
            dtype=tensor.dtype,
            shape=ir.Shape(tensor.shape),
            name=str(tensor.name),
            base_dir=self._writer.path / "graphs",
        )
