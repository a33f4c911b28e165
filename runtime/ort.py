"""ONNX Runtime as a runner: CPU by default, any execution provider by option."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from sparsevlm_trt.runtime.bundle import Bundle
from sparsevlm_trt.runtime.closing import Closing
from sparsevlm_trt.runtime.cpu import read_cpu
from sparsevlm_trt.runtime.device_array import DeviceArray, Tensor
from sparsevlm_trt.runtime.engines.limits import Limits
from sparsevlm_trt.runtime.errors import EngineError, RunnerError
from sparsevlm_trt.runtime.graph_loading import load_graphs
from sparsevlm_trt.runtime.ort_gpu import RTX_PROVIDER, gpu_options, rtx_devices
from sparsevlm_trt.runtime.ort_memory import OrtMemory
from sparsevlm_trt.runtime.ort_pool import share_pool
from sparsevlm_trt.runtime.ort_providers import (
    CPU,
    ON_CUDA,
    check_providers,
    load_cuda,
    merged_options,
)
from sparsevlm_trt.runtime.ort_sessions import shared_session
from sparsevlm_trt.runtime.runner import Array

__all__ = ["OnnxRuntimeRunner"]

# Outputs from this size on are bound to their place; below it a copy costs less than the binding
# (28 small outputs: 57 us copied, 128 us bound; ONNX Runtime 1.32).
_BIND_BYTES = 1 << 20

_MESSAGE_LENGTH = 300  # characters
_WEIGHTS_FOLDER = "session.model_external_initializers_file_folder_path"

# ONNX Runtime's names of the types that graphs have.
_DTYPES: dict[str, np.dtype[Any]] = {
    "tensor(float)": np.dtype(np.float32),
    "tensor(float16)": np.dtype(np.float16),
    "tensor(int8)": np.dtype(np.int8),
    "tensor(int64)": np.dtype(np.int64),
    "tensor(bool)": np.dtype(np.bool_),
}


class OnnxRuntimeRunner(Closing):
    """Runs each graph in a session of its own; all sessions share one thread pool.

    With a pool for each session, the threads of the last stage spin while the next one computes:
    decoding is then about four times slower. Runners of one process share the session of a file.
    """

    name = "onnxruntime"

    def __init__(
        self,
        providers: Sequence[str] = (CPU,),
        threads: int | None = None,
        resident: bool | None = None,
        provider_options: Mapping[str, Mapping[str, Any]] | None = None,
        limits: Limits | None = None,
    ) -> None:
        """Check the providers and make the thread pool.

        Args:
            providers: Execution providers, the preferred first; the CPU always comes last.
            threads: Threads of the process's pool; None: as many as this process may use, or
                the pool that is there.
            resident: Whether hidden states and caches stay in the provider's own memory; None:
                on a GPU. On the CPU it changes nothing but the way that arrays are handed over.
            provider_options: ONNX Runtime's own options by provider, such as
                `{"CUDAExecutionProvider": {"device_id": 1}}`.
            limits: The largest request, for TensorRT's providers; None: as `sparsevlm compile`.

        Raises:
            RunnerError: ONNX Runtime or a provider is not installed, or the pool is there already
                with another size.
        """
        try:
            import onnxruntime
        except ImportError as error:
            raise RunnerError(
                f"runner onnxruntime | {error} | expected an importable onnxruntime | "
                "pip install onnxruntime"
            ) from error
        self._ort = onnxruntime
        self._limits = limits
        available = onnxruntime.get_available_providers()
        # A plugin's provider is not among those that ONNX Runtime was built with.
        self._plugged = rtx_devices(onnxruntime)[:1] if RTX_PROVIDER in providers else []
        known = [*available, RTX_PROVIDER] if self._plugged else available
        self._providers = check_providers(providers, known)
        share_pool(onnxruntime, threads)
        self._sums_int8_exactly = read_cpu().sums_int8_exactly
        self._sessions: dict[str, Any] = {}
        self._outputs: dict[str, dict[str, str]] = {}
        first = self._providers[0]
        self.device = first.removesuffix("ExecutionProvider").lower()
        on_cuda = first in ON_CUDA
        self._notes = load_cuda(onnxruntime) if on_cuda else ""
        self._options = merged_options(self._providers, provider_options or {})
        self._memory: OrtMemory | None = None
        if on_cuda if resident is None else resident:
            ordinal = int(self._options[0].get("device_id", 0))
            self._memory = OrtMemory(onnxruntime, "cuda" if on_cuda else "cpu", ordinal)

    def load(self, bundle: Bundle, graphs: Sequence[str]) -> None:
        """Open a session for each graph; see `Runner.load`."""
        if self._providers == [CPU]:
            load_graphs(graphs, lambda graph: self._load_one(bundle, graph))
            return
        for graph in graphs:  # a GPU's memory is for one build at a time
            self._load_one(bundle, graph)

    def put(self, graph: str, model: bytes, folder: Path) -> None:
        """Open a session for a graph in memory, in place of the one of that name.

        Args:
            graph: Its name.
            model: Its ONNX bytes.
            folder: What the files of its weights are relative to.

        Raises:
            RunnerError: ONNX Runtime cannot load it.
        """
        self._sessions.pop(graph, None)  # its memory goes before the next one's comes
        options = self._session_options()
        options.add_session_config_entry(_WEIGHTS_FOLDER, str(folder))
        try:
            session = self._ort.InferenceSession(model, options, providers=self._providers)
        except Exception as error:  # ONNX Runtime's own classes share no public base
            raise RunnerError(
                f"graph {graph} | {_brief(error)} | expected a graph that ONNX Runtime "
                f"{self._ort.__version__} loads | update onnxruntime"
            ) from error
        self._sessions[graph] = session
        self._outputs[graph] = {each.name: each.type for each in session.get_outputs()}

    def _session_options(self) -> Any:
        options = self._ort.SessionOptions()
        options.graph_optimization_level = self._ort.GraphOptimizationLevel.ORT_ENABLE_ALL
        options.use_per_session_threads = False
        options.add_session_config_entry("session.use_env_allocators", "1")
        # A memory pattern is kept for every new shape: one per decode step, for ever.
        options.enable_mem_pattern = False
        options.log_severity_level = 3
        if not self._sums_int8_exactly:
            # Here ONNX Runtime's product of uint8 by int8 saturates at 16 bits. This takes the one
            # of uint8 by uint8, which does not. With VNNI it would take three times as long.
            options.add_session_config_entry("session.x64quantprecision", "1")
        return options

    def _load_one(self, bundle: Bundle, graph: str) -> None:
        path = bundle.graph_path(graph)
        try:
            own = [
                {**gpu_options(bundle, graph, name, self._limits), **given}
                for name, given in zip(self._providers, self._options, strict=True)
            ]
            settings = json.dumps([self._providers, own], default=str)
            session = shared_session(path, settings, lambda: self._open(path, own))
        except EngineError as error:
            raise RunnerError(str(error)) from error
        except Exception as error:  # ONNX Runtime's own classes share no public base
            raise RunnerError(
                f"graph {graph} | {_brief(error)} | expected a graph that ONNX Runtime "
                f"{self._ort.__version__} loads | export again, or update onnxruntime"
            ) from error
        self._check_in_use(graph, session.get_providers())
        self._sessions[graph] = session
        self._outputs[graph] = {each.name: each.type for each in session.get_outputs()}

    def _open(self, path: Path, provider_options: Sequence[Mapping[str, Any]]) -> Any:
        options = self._session_options()
        if self._plugged:
            options.add_provider_for_devices(self._plugged, provider_options[0])
            return self._ort.InferenceSession(str(path), options)
        return self._ort.InferenceSession(
            str(path), options, providers=self._providers, provider_options=provider_options
        )

    def empty(self, shape: Sequence[int], dtype: DTypeLike, /) -> Tensor:
        """Reserve an array; see `Runner.empty`."""
        if self._memory is None:
            return np.empty(shape, dtype)
        return DeviceArray.empty(self._memory, shape, dtype)

    def run(
        self, graph: str, inputs: Mapping[str, Tensor], into: Mapping[str, Tensor] | None = None
    ) -> dict[str, Tensor]:
        """Run one graph; see `Runner.run`."""
        session = self._sessions.get(graph)
        if session is None:
            raise RunnerError(
                f"graph {graph} | got a call before it was loaded | expected one of: "
                f"{', '.join(self._sessions) or 'none'} | load it first"
            )
        into = into or {}
        types = self._outputs[graph]
        try:
            if self._memory or sum(array.nbytes for array in into.values()) >= _BIND_BYTES:
                return self._run_bound(session, types, inputs, into)
            outputs = dict(zip(types, session.run(list(types), inputs), strict=True))
            for name, place in into.items():
                _check_place(graph, name, outputs[name], place)
                place[...] = outputs[name]
                outputs[name] = place
        except RunnerError:
            raise
        except Exception as error:  # as above
            shapes = {name: list(array.shape) for name, array in inputs.items()}
            small = ", ".join(f"{name} {shape}" for name, shape in list(shapes.items())[:6])
            raise RunnerError(
                f"graph {graph} | {_brief(error)} | got {small} | check the bundle with "
                "its parity report"
            ) from error
        return outputs

    def _check_in_use(self, graph: str, in_use: Sequence[str]) -> None:
        """Refuse the silent step back to the CPU when a provider's libraries do not load."""
        missing = [name for name in self._providers if name not in in_use]
        if missing:
            raise RunnerError(
                f"graph {graph} | got {', '.join(in_use)} | expected {', '.join(missing)}, which "
                f"is installed but did not start{self._notes} | check its driver and libraries "
                "(pip install 'onnxruntime-gpu[cuda,cudnn]'), or leave it out"
            )

    def _run_bound(
        self,
        session: Any,
        types: Mapping[str, str],
        inputs: Mapping[str, Tensor],
        into: Mapping[str, Tensor],
    ) -> dict[str, Tensor]:
        """Run with arrays read and written in place by ONNX Runtime itself."""
        memory = self._memory
        home = (memory.device, memory.ordinal) if memory else ("cpu", 0)
        binding = session.io_binding()
        for name, array in inputs.items():
            if isinstance(array, DeviceArray):
                dtype = array.dtype.type
                binding.bind_input(name, *home, dtype, array.shape, array.pointer)
            else:
                binding.bind_cpu_input(name, np.ascontiguousarray(array))
        for name in types:
            place = into.get(name)
            if place is None:
                binding.bind_output(name, *home)
            elif isinstance(place, DeviceArray):
                dtype = place.dtype.type
                binding.bind_output(name, *home, dtype, place.shape, place.pointer)
            else:
                dtype = place.dtype.type
                binding.bind_output(name, "cpu", 0, dtype, place.shape, place.ctypes.data)
        session.run_with_iobinding(binding)
        values = dict(zip(types, binding.get_outputs(), strict=True))
        return {name: into.get(name, _output(memory, values[name], types[name])) for name in types}

    def close(self) -> None:
        """Free all sessions; a second call does nothing."""
        self._sessions.clear()
        self._outputs.clear()


def _output(memory: OrtMemory | None, value: Any, kind: str) -> Tensor:
    """Take an output that ONNX Runtime allocated, without copying it."""
    if memory is None:
        array: Array = value.numpy()
        return array
    return DeviceArray(memory, value.data_ptr(), value.shape(), _DTYPES[kind], value)


def _check_place(graph: str, name: str, output: Array, place: Tensor) -> None:
    """Refuse a place that numpy would fill by broadcasting or casting."""
    if output.shape != place.shape or output.dtype != place.dtype:
        raise RunnerError(
            f"graph {graph} | output {name}: got {output.dtype} {list(output.shape)} | expected "
            f"{place.dtype} {list(place.shape)} | export the bundle again"
        )


def _brief(error: Exception) -> str:
    """Return an exception's message on one line, cut: the engine adds stack traces."""
    return " ".join(str(error).split())[:_MESSAGE_LENGTH] or type(error).__name__
