"""Bind the initializers of a traced model to weight files, one tensor in memory at a time."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import torch
from torch import Tensor

from sparsevlm_trt.export.bundle_writer import BundleWriter
from sparsevlm_trt.export.checkpoint import Checkpoint
from sparsevlm_trt.export.graph_module import GraphModule, WeightSource
from sparsevlm_trt.runtime.errors import ExportError

__all__ = ["WeightBinder"]

# Smaller initializers (norms, biases, constants) live inside the graph: a file each is not worth
# an open() at load.
INLINE_BYTES = 64 * 1024


class WeightBinder:
    """Writes each weight once and points graphs at the file.

    Args:
        checkpoint: Where parameters come from.
        writer: The bundle under construction; it names files by content, so that a tied head
            finds the embedding already there.
    """

    def __init__(self, checkpoint: Checkpoint, writer: BundleWriter) -> None:
        """Remember what has been written."""
        self.checkpoint, self.writer = checkpoint, writer
        self._written: dict[tuple[WeightSource, ir.DataType], str] = {}

    def bind(self, model: ir.Model, graph: GraphModule) -> tuple[str, ...]:
        """Give every initializer its value.

        Args:
            model: Traced model; changed in place.
            graph: The module it was traced from.

        Returns:
            Bundle-relative weight files the graph reads, sorted.

        Raises:
            ExportError: A stored tensor has another shape, or leaves the type's range.
        """
        files: set[str] = set()
        for name, value in model.graph.initializers.items():
            source = graph.weights.get(name)
            assert value.const_value is not None
            if source is None:
                tensor = value.const_value
                if tensor.nbytes >= INLINE_BYTES:
                    file = self.writer.add_weight(name, np.ascontiguousarray(tensor.numpy()))
                    files.add(self._point(value, file))
                else:
                    value.const_value = ir.Tensor(np.array(tensor.numpy()), name=name)
            elif value.const_value.nbytes < INLINE_BYTES:
                # A copy: a view would keep the whole checkpoint file mapped.
                array = self._load(graph.name, value, source).copy()
                value.const_value = ir.Tensor(array, name=name)
            else:
                files.add(self._point(value, self._write(graph.name, value, source)))
        return tuple(sorted(files))

    def _write(self, graph_name: str, value: ir.Value, source: WeightSource) -> str:
        assert value.dtype is not None
        key = (source, value.dtype)
        if key not in self._written:
            array = self._load(graph_name, value, source)
            self._written[key] = self.writer.add_weight(source.spelled, array)
        return self._written[key]

    def _load(self, graph_name: str, value: ir.Value, source: WeightSource) -> np.ndarray:
        assert value.dtype is not None
        assert value.const_value is not None
        stored = self._stored(graph_name, source)
        expected = list(value.const_value.shape.numpy())
        if list(stored.shape) != expected:
            raise ExportError(
                f"graph {graph_name} | tensor {source.spelled} is {list(stored.shape)} "
                f"| expected {expected} | the checkpoint's config.json does not fit its weights"
            )
        dtype = torch.float16 if value.dtype == ir.DataType.FLOAT16 else torch.float32
        if source.scale != 1.0:  # in float32, which loses nothing of it
            stored = stored.to(torch.float32) * source.scale
        return _converted(stored, dtype, source.spelled)

    def _stored(self, graph_name: str, source: WeightSource) -> Tensor:
        stored = self.checkpoint.tensor(source.stored_name)
        if source.beside:
            parts = [stored, *map(self.checkpoint.tensor, source.beside)]
            if len({part.shape[1:] for part in parts}) > 1:
                shapes = ", ".join(str(list(part.shape)) for part in parts)
                raise ExportError(
                    f"graph {graph_name} | tensors {source.spelled} are {shapes} | expected the "
                    "same input size | the checkpoint's config.json does not fit its weights"
                )
            stored = torch.cat(parts)
        return stored.t() if source.transpose else stored

    def _point(self, value: ir.Value, file: str) -> str:
        tensor = value.const_value
        assert tensor is not None
        assert value.name is not None
        value.const_value = ir.ExternalTensor(
            # Relative to the graph, which lies beside the weights folder.
            location=file.removeprefix("graphs/"),
            offset=0,
            length=tensor.nbytes,
            dtype=tensor.dtype,
            shape=ir.Shape(tensor.shape),
            name=value.name,
            base_dir=self.writer.path / "graphs",
        )
        return file


def _converted(stored: Tensor, dtype: torch.dtype, name: str) -> np.ndarray:
    converted = stored.to(dtype).contiguous()
    if dtype is torch.float16 and stored.dtype is not torch.float16:
        lost = torch.isinf(converted) & torch.isfinite(stored)
        if bool(lost.any()):
            raise ExportError(
                f"tensor {name} | largest magnitude {float(stored.abs().max()):.4g} "
                "| expected below 65504, the float16 limit | export with --dtype float32"
            )
    array: np.ndarray = converted.numpy()
    return array
