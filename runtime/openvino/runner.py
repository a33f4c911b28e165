"""OpenVINO as a runner: Intel and other CPUs, Intel GPUs by option."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from sparsevlm_trt.runtime.bundle import Bundle
from sparsevlm_trt.runtime.closing import Closing
from sparsevlm_trt.runtime.errors import RunnerError
from sparsevlm_trt.runtime.graph_loading import load_graphs
from sparsevlm_trt.runtime.openvino.compiler import CompiledGraph, Compiler
from sparsevlm_trt.runtime.openvino.graph_cache import GraphCache, default_folder
from sparsevlm_trt.runtime.openvino.held_cache import OpenVinoCache
from sparsevlm_trt.runtime.openvino.precision import pick_precision
from sparsevlm_trt.runtime.openvino.request import infer
from sparsevlm_trt.runtime.runner import Array, Tensor
from sparsevlm_trt.runtime.threads import allowed_cpus

__all__ = ["OpenVinoRunner"]

_DRIVERS = {
    "GPU": "Intel's GPU driver with OpenCL (intel-opencl-icd)",
    "NPU": "Intel's NPU driver (intel-driver-compiler-npu)",
}


class OpenVinoRunner(Closing):
    """Runs each graph as a compiled model; stages keep their keys and values themselves."""

    name = "openvino"

    def __init__(
        self,
        device: str = "CPU",
        dtype: str | None = None,
        threads: int | None = None,
        cache_dir: str | Path | None = None,
        use_cache: bool = True,
    ) -> None:
        """Look for the device.

        Args:
            device: "CPU", "GPU", "GPU.1" or "NPU".
            dtype: What stages, head and vision compute in; see `precision.pick_precision`.
                Graphs that decide are float32 always.
            threads: Processor threads; None: as many as this process may use.
            cache_dir: Where rewritten graphs are kept; None: in the user's cache folder.
            use_cache: Whether they are kept at all.

        Raises:
            RunnerError: OpenVINO or the device is not there, or it does not compute in `dtype`.
        """
        try:
            import openvino
        except ImportError as error:
            raise RunnerError(
                f"runner openvino | {error} | expected an importable openvino | "
                "pip install 'sparsevlm-trt[openvino]'"
            ) from error
        if threads is not None and threads < 1:
            raise RunnerError(
                f"runner openvino | got threads={threads} | expected 1 or more | "
                "leave it out to use every allowed core"
            )
        core = openvino.Core()
        name = _check_device(device, core.available_devices)
        capabilities = core.get_property(name, "OPTIMIZATION_CAPABILITIES")
        precision = pick_precision(dtype, name.partition(".")[0], capabilities)
        settings: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY"}
        if name == "CPU":
            settings = {
                "INFERENCE_NUM_THREADS": threads or allowed_cpus(),
                "NUM_STREAMS": 1,
                # Pinned threads of two processes in one container fight for the same cores.
                "ENABLE_CPU_PINNING": False,
            }
        folder = default_folder() if cache_dir is None else Path(cache_dir)
        facts = {
            "openvino": openvino.__version__,
            "device": core.get_property(name, "FULL_DEVICE_NAME"),
            "capabilities": sorted(capabilities),
        }
        cache = GraphCache(folder) if use_cache else None
        self._compiler = Compiler(core, name, precision, settings, cache, facts)
        self.device, self.precision = name.lower(), precision
        self._bundle: Bundle | None = None
        self._loaded: dict[str, CompiledGraph] = {}
        self._plain: dict[str, CompiledGraph] = {}

    def load(self, bundle: Bundle, graphs: Sequence[str]) -> None:
        """Compile each graph, or find it compiled; see `Runner.load`."""
        self._bundle = bundle
        # Codes of a cache stay outside: the engine would keep what it makes of them.
        has_codes = bundle.manifest.model.cache_dtype is not None
        holding = set() if has_codes else {stage.graph for stage in bundle.manifest.stages}

        def compile_one(graph: str) -> None:
            self._loaded[graph] = self._compiler.open(bundle, graph, graph in holding)

        load_graphs(graphs, compile_one)

    def put(self, graph: str, model: bytes) -> None:
        """Compile a graph in memory, in place of the one of that name.

        Args:
            graph: Its name.
            model: Its ONNX bytes, weights included.

        Raises:
            RunnerError: OpenVINO cannot load it.
        """
        self._loaded[graph] = self._compiler.compile_bytes(graph, model)

    def empty(self, shape: Sequence[int], dtype: DTypeLike, /) -> Array:
        """Reserve an array; see `Runner.empty`."""
        return np.empty(shape, dtype)

    def run(
        self, graph: str, inputs: Mapping[str, Tensor], into: Mapping[str, Tensor] | None = None
    ) -> dict[str, Tensor]:
        """Run one graph; see `Runner.run`.

        A stage that is run this way takes and gives its keys and values as the bundle says; it is
        compiled in that form when it is first asked for.
        """
        compiled = self._loaded.get(graph)
        if compiled is None:
            raise RunnerError(
                f"graph {graph} | got a call before it was loaded | expected one of: "
                f"{', '.join(self._loaded) or 'none'} | load it first"
            )
        if compiled.holds_cache:
            compiled = self._open_plain(graph)
        request = compiled.take_request()
        try:
            return infer(compiled, request, inputs, into or {})
        finally:
            compiled.give_back(request)

    def open_cache(
        self, graph: str, batch: int, capacity: int, dtype: np.dtype[Any]
    ) -> OpenVinoCache | None:
        """Open a cache that the engine keeps; None where the stage has none.

        Args:
            graph: The stage.
            batch: Rows.
            capacity: Entries that fit in.
            dtype: The cache's type in the bundle; the cache itself has the stage's.
        """
        compiled = self._loaded.get(graph)
        if compiled is None or not compiled.holds_cache or self._bundle is None:
            return None
        manifest = self._bundle.manifest
        stage = next(s for s in manifest.stages if s.graph == graph)
        width = manifest.model.num_kv_heads * manifest.model.head_dim
        return OpenVinoCache(compiled, stage.stop - stage.first, batch, capacity, width)

    def runtime_model(self, graph: str) -> Any:
        """Return the engine's own account of what it executes for a graph."""
        return self._loaded[graph].runtime_model()

    def close(self) -> None:
        """Let the graphs go; a second call does nothing."""
        self._loaded.clear()
        self._plain.clear()
        self._bundle = None

    def _open_plain(self, graph: str) -> CompiledGraph:
        """Return a stage in the bundle's own form."""
        if graph not in self._plain:
            assert self._bundle is not None
            self._plain[graph] = self._compiler.open(self._bundle, graph, holds_cache=False)
        return self._plain[graph]


def _check_device(device: str, available: Sequence[str]) -> str:
    """Return OpenVINO's name of a device, or say which there are and what brings it."""
    name = device.upper()
    if name == "GPU" and "GPU.0" in available:
        return "GPU.0"
    if name in available:
        return name
    driver = _DRIVERS.get(name.partition(".")[0])
    raise RunnerError(
        f"runner openvino | got device {device} | expected one that is here: "
        f"{', '.join(available)} | "
        + (f"install {driver}, or leave the device out" if driver else "name one of them")
    )
