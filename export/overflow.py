"""How near the tensors of a bundle come to float16's limit, while it answers in float32.

Every float tensor of every graph gets one more output, its largest magnitude. A float16 bundle
computes the same tensors in half precision, but for scores, norms and clusters, which are float32
in every bundle; what is above 65504 here would be infinite there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import DTypeLike
from onnx import TensorProto, helper, numpy_helper

from sparsevlm_trt.export.reach import remedies
from sparsevlm_trt.export.scan_report import Peak, Remedy
from sparsevlm_trt.runtime.bundle import Bundle
from sparsevlm_trt.runtime.closing import Closing
from sparsevlm_trt.runtime.device_array import Tensor
from sparsevlm_trt.runtime.ort import OnnxRuntimeRunner

__all__ = ["PeakRunner", "with_peaks"]

# Masks hold their type's own minimum, whatever the type.
_MASK = 1e30
_PREFIX = "peak of "


def with_peaks(model: onnx.ModelProto) -> dict[str, onnx.NodeProto]:
    """Add an output for the largest magnitude of every float32 tensor that a node makes.

    Args:
        model: Changed in place.

    Returns:
        The node that makes each tensor, by the tensor's name.
    """
    graph = onnx.shape_inference.infer_shapes(model).graph
    kinds = {
        info.name: info.type.tensor_type.elem_type for info in (*graph.value_info, *graph.output)
    }
    made = {
        name: node
        for node in list(model.graph.node)
        for name in node.output
        if kinds.get(name) == TensorProto.FLOAT
    }
    flat = numpy_helper.from_array(np.array([-1]), "peak_flat")
    # With it, an empty tensor has a largest magnitude too.
    zero = numpy_helper.from_array(np.zeros(1, np.float32), "peak_zero")
    model.graph.initializer.extend([flat, zero])
    for number, name in enumerate(made):
        steps = [f"peak_{number}_{step}" for step in ("abs", "row", "all")]
        model.graph.node.extend(
            [
                helper.make_node("Abs", [name], [steps[0]]),
                helper.make_node("Reshape", [steps[0], "peak_flat"], [steps[1]]),
                helper.make_node("Concat", [steps[1], "peak_zero"], [steps[2]], axis=0),
                helper.make_node("ReduceMax", [steps[2]], [_PREFIX + name], keepdims=0),
            ]
        )
        output = helper.make_tensor_value_info(_PREFIX + name, TensorProto.FLOAT, [])
        model.graph.output.append(output)
    return made


class PeakRunner(Closing):
    """Runs graphs on ONNX Runtime's CPU and remembers the largest magnitude of every tensor."""

    name = "onnxruntime"
    device = "cpu"

    def __init__(self) -> None:
        """Share the process's thread pool."""
        OnnxRuntimeRunner().close()
        self._sessions: dict[str, onnxruntime.InferenceSession] = {}
        self._makers: dict[str, dict[str, onnx.NodeProto]] = {}
        self._remedies: dict[str, dict[str, Remedy]] = {}
        self._largest: dict[tuple[str, str], float] = {}

    def load(self, bundle: Bundle, graphs: Sequence[str]) -> None:
        """Open each graph with its additional outputs; see `Runner.load`."""
        for name in graphs:
            path = bundle.graph_path(name)
            model = onnx.load(path, load_external_data=False)
            self._remedies[name] = remedies(name, model)
            self._makers[name] = with_peaks(model)
            options = onnxruntime.SessionOptions()
            options.use_per_session_threads = False
            options.enable_mem_pattern = False
            folder = "session.model_external_initializers_file_folder_path"
            options.add_session_config_entry(folder, str(path.parent))
            self._sessions[name] = onnxruntime.InferenceSession(
                model.SerializeToString(), options, providers=["CPUExecutionProvider"]
            )

    def empty(self, shape: Sequence[int], dtype: DTypeLike, /) -> Tensor:
        """Reserve an array; see `Runner.empty`."""
        return np.empty(shape, dtype)

    def run(
        self, graph: str, inputs: Mapping[str, Tensor], into: Mapping[str, Tensor] | None = None
    ) -> dict[str, Tensor]:
        """Run one graph and note its peaks; see `Runner.run`."""
        session = self._sessions[graph]
        names = [output.name for output in session.get_outputs()]
        outputs: dict[str, Any] = {}
        for name, value in zip(names, session.run(names, inputs), strict=True):
            if name.startswith(_PREFIX):
                key = (graph, name.removeprefix(_PREFIX))
                self._largest[key] = max(self._largest.get(key, 0.0), float(value))
            else:
                outputs[name] = value
        for name, place in (into or {}).items():
            place[...] = outputs[name]
            outputs[name] = place
        return outputs

    def peaks(self) -> list[Peak]:
        """All tensors but masks, the largest first."""
        found = [
            Peak(
                graph=graph,
                node=self._makers[graph][tensor].name,
                tensor=tensor,
                operator=self._makers[graph][tensor].op_type,
                magnitude=magnitude,
                remedy=self._remedies[graph][tensor],
            )
            for (graph, tensor), magnitude in self._largest.items()
            if magnitude < _MASK
        ]
        return sorted(found, key=lambda peak: -peak.magnitude)

    def close(self) -> None:
        """Free the graphs; a second call does nothing."""
        self._sessions.clear()
