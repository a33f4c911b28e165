"""From a graph file to a compiled graph: read, rewrite and narrow, or find it so; compile.

Compiled graphs are shared by all runners of the process that ask for the same one: a second
session costs its caches, not a second copy of the weights.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sparsevlm_trt.runtime.bundle import Bundle
from sparsevlm_trt.runtime.errors import RunnerError
from sparsevlm_trt.runtime.openvino.byte_table import read_bytes
from sparsevlm_trt.runtime.openvino.graph_cache import GRAPH_NAME, GraphCache
from sparsevlm_trt.runtime.openvino.held import hold_cache
from sparsevlm_trt.runtime.openvino.precision import (
    Precision,
    graph_precision,
    narrow_weights,
)
from sparsevlm_trt.runtime.sharing import Shared

__all__ = ["CompiledGraph", "Compiler"]

# Part of every cached graph's name: raise it whenever the rewriting changes.
_FORM = 4
_MESSAGE_LENGTH = 300  # characters


class CompiledGraph:
    """A compiled graph and its idle requests.

    Attributes:
        name: Its name in the bundle.
        holds_cache: Whether the engine keeps its keys and values.
        inputs: Names of its inputs.
        outputs: Names of its outputs, in the order of the engine.
        precision: What it computes in.
    """

    def __init__(self, name: str, model: Any, precision: Precision) -> None:
        """Take a compiled model."""
        self.name, self.precision = name, precision
        self._model = model
        self.inputs = [value.get_any_name() for value in model.inputs]
        self.outputs = [value.get_any_name() for value in model.outputs]
        self.holds_cache = "num_past" in self.inputs
        self._idle: list[Any] = []

    def take_request(self) -> Any:
        """Return a request that nobody else uses."""
        try:
            return self._idle.pop()
        except IndexError:  # list.pop is atomic: two threads never get the same one
            return self._model.create_infer_request()

    def give_back(self, request: Any) -> None:
        """Let others use a request again."""
        self._idle.append(request)

    def runtime_model(self) -> Any:
        """Return the engine's own account of what it executes."""
        return self._model.get_runtime_model()


_shared: Shared[CompiledGraph] = Shared()


@dataclass(frozen=True)
class Compiler:
    """Compiles graphs for one device with one set of settings.

    Attributes:
        core: An openvino.Core.
        device: OpenVINO's name of the device.
        precision: What stages, head and vision compute in.
        settings: Properties for the device.
        cache: Where rewritten graphs are kept; None to rewrite each time.
        facts: What else they depend on: processor, version.
    """

    core: Any
    device: str
    precision: Precision
    settings: dict[str, Any]
    cache: GraphCache | None
    facts: dict[str, Any] = field(default_factory=dict)

    def open(self, bundle: Bundle, graph: str, holds_cache: bool) -> CompiledGraph:
        """Return a graph ready to run.

        Args:
            bundle: Holds the graph.
            graph: Its name.
            holds_cache: Whether the engine shall keep keys and values, where it can.

        Raises:
            RunnerError: The engine cannot load it.
        """
        precision = graph_precision(graph, self.precision)
        spec = bundle.manifest.graphs[graph]
        settings = {**self.settings, "INFERENCE_PRECISION_HINT": precision}
        if self.device == "CPU":
            settings["KV_CACHE_PRECISION"] = precision
        facts = {
            **self.facts,
            "form": _FORM,
            "graph": spec.sha256,
            "weights": list(spec.weights),
            "holds_cache": holds_cache,
            "precision": precision,
        }
        key = GraphCache.key({**facts, "threads": self.settings.get("INFERENCE_NUM_THREADS")})
        return _shared.get(key, lambda: self._compile(bundle, graph, facts, settings, holds_cache))

    def compile_bytes(self, graph: str, model: bytes) -> CompiledGraph:
        """Return a graph that is no bundle's, ready to run.

        Args:
            graph: Its name.
            model: Its ONNX bytes, weights included.

        Raises:
            RunnerError: The engine cannot load it.
        """
        settings = {**self.settings, "INFERENCE_PRECISION_HINT": self.precision}
        try:
            network = self.core.read_model(model)
            compiled = self.core.compile_model(network, self.device, settings)
        except RuntimeError as error:
            raise RunnerError(
                f"graph {graph} | {brief(error)} | expected a graph that OpenVINO loads on "
                f"{self.device} | update openvino"
            ) from error
        return CompiledGraph(graph, compiled, self.precision)

    def _compile(
        self,
        bundle: Bundle,
        graph: str,
        facts: dict[str, Any],
        settings: dict[str, Any],
        holds_cache: bool,
    ) -> CompiledGraph:
        """Compile a graph, rewritten now or earlier."""
        precision: Precision = settings["INFERENCE_PRECISION_HINT"]
        try:
            if precision == "f32":  # its weights lie in the bundle as they are
                network = self._rewritten(bundle, graph, holds_cache)
                return CompiledGraph(
                    graph, self.core.compile_model(network, self.device, settings), precision
                )
            key, kept = GraphCache.key(facts), None
            if self.cache is not None:
                kept = self.cache.find(key) or self.cache.store(
                    key, lambda path: self._write(bundle, graph, precision, holds_cache, path)
                )
            if kept is not None:
                try:
                    model = self.core.compile_model(str(kept), self.device, settings)
                    return CompiledGraph(graph, model, precision)
                except RuntimeError:  # damaged: the next start makes it again
                    assert self.cache is not None
                    self.cache.discard(key)
            with tempfile.TemporaryDirectory(prefix="sparsevlm-") as folder:
                path = Path(folder) / GRAPH_NAME
                self._write(bundle, graph, precision, holds_cache, path)
                model = self.core.compile_model(str(path), self.device, settings)
            return CompiledGraph(graph, model, precision)
        except RuntimeError as error:
            raise RunnerError(
                f"graph {graph} | {brief(error)} | expected a graph that OpenVINO loads on "
                f"{self.device} | export again, update openvino, or use --runner onnxruntime"
            ) from error

    def _rewritten(self, bundle: Bundle, graph: str, holds_cache: bool) -> Any:
        """Read a graph of the bundle in the engine's own terms, its cache within the engine."""
        network = self.core.read_model(str(bundle.graph_path(graph)))
        if graph == "embed":
            read_bytes(network)
        if holds_cache:
            stage = next(s for s in bundle.manifest.stages if s.graph == graph)
            hold_cache(network, stage, bundle.manifest.model)
        return network

    def _write(
        self, bundle: Bundle, graph: str, precision: Precision, holds_cache: bool, path: Path
    ) -> None:
        """Rewrite a graph for a narrow type and write it in OpenVINO's own form."""
        from openvino import save_model

        network = self._rewritten(bundle, graph, holds_cache)
        memory = narrow_weights(network) if precision == "bf16" else []
        save_model(network, str(path), compress_to_fp16=False)
        del memory


def brief(error: Exception) -> str:
    """Return an exception's last line: the engine puts its source files first."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[-1] if lines else type(error).__name__)[:_MESSAGE_LENGTH]
