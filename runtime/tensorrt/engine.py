"""An engine and its execution contexts: the thin layer over TensorRT's own objects."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from sparsevlm_trt.runtime.errors import RunnerError
from sparsevlm_trt.runtime.tensorrt.builder_log import BuilderFigures, make_log

__all__ = ["Context", "Engine", "Io", "TrtLibrary"]

Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Io:
    """An input or output of an engine.

    Attributes:
        dtype: As numpy names it.
        on_host: Whether the engine reads it from host memory: a size.
    """

    dtype: np.dtype[Any]
    on_host: bool


class Context(Protocol):
    """An engine under one profile, with addresses and shapes bound to it."""

    def bind(self, name: str, address: int, shape: Shape | None = None) -> None:
        """Set where a tensor lies, and an input's shape.

        Raises:
            RunnerError: The engine takes no such shape.
        """

    def output_shape(self, name: str) -> Shape:
        """Shape that an output will have; -1 where only the data tells."""

    def allocate_output(self, name: str, allocate: Callable[[int], int]) -> Callable[[], Shape]:
        """Let the engine ask for an output's memory when it knows the size.

        Returns:
            What tells the shape, after `execute`.
        """

    def scratch_bytes(self) -> int:
        """Memory that running with the bound shapes takes beside the tensors."""

    def execute(self, scratch: int, size_bytes: int, stream: int) -> None:
        """Put the engine's work on a stream.

        Raises:
            RunnerError: It failed.
        """


class Engine(Protocol):
    """A loaded plan."""

    @property
    def inputs(self) -> Mapping[str, Io]:
        """Inputs by name."""

    @property
    def outputs(self) -> Mapping[str, Io]:
        """Outputs by name."""

    def context(self, profile: int, stream: int) -> Context:
        """Make a context under a profile."""


class TrtLibrary:
    """Loads plans with TensorRT or TensorRT-RTX."""

    def __init__(self, trt: Any) -> None:
        """Start its runtime.

        Args:
            trt: The library's module.
        """
        self._trt = trt
        self.figures = BuilderFigures()
        self._log = make_log(trt, self.figures)
        self._runtime = trt.Runtime(self._log)

    def load(self, graph: str, plan: Path) -> Engine:
        """Load a plan.

        Args:
            graph: Its graph's name, for errors.
            plan: The file.

        Raises:
            RunnerError: The library refuses it.
        """
        try:
            engine = self._runtime.deserialize_cuda_engine(plan.read_bytes())
        except (OSError, NotImplementedError) as error:
            raise RunnerError(
                f"engine {graph} | {error} | expected a TensorRT that runs engines | install "
                "NVIDIA's own"
            ) from error
        if engine is None:
            reasons = "; ".join(self.figures.errors[-2:]) or "no reason given"
            raise RunnerError(
                f"engine {graph} | {reasons} | expected a plan of this version and GPU | compile "
                "it again"
            )
        return _TrtEngine(self._trt, graph, engine)


class _TrtEngine:
    """A deserialized plan."""

    def __init__(self, trt: Any, graph: str, engine: Any) -> None:
        self._trt, self._graph, self._engine = trt, graph, engine
        self.inputs: dict[str, Io] = {}
        self.outputs: dict[str, Io] = {}
        for index in range(engine.num_io_tensors):
            name = engine.get_tensor_name(index)
            is_input = engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT
            on_host = engine.get_tensor_location(name) == trt.TensorLocation.HOST
            dtype = np.dtype(trt.nptype(engine.get_tensor_dtype(name)))
            (self.inputs if is_input else self.outputs)[name] = Io(dtype, on_host)

    def context(self, profile: int, stream: int) -> Context:
        """Make a context whose scratch memory is ours to give."""
        strategy = self._trt.ExecutionContextAllocationStrategy.USER_MANAGED
        context = self._engine.create_execution_context(strategy)
        if context is None or not context.set_optimization_profile_async(profile, stream):
            raise RunnerError(
                f"engine {self._graph} | no execution context for profile {profile} | expected "
                "one | is the GPU's memory full? see nvidia-smi"
            )
        return _TrtContext(self._trt, self._graph, context)


class _TrtContext:
    """An execution context."""

    def __init__(self, trt: Any, graph: str, context: Any) -> None:
        self._trt, self._graph, self._context = trt, graph, context
        self._allocators: dict[str, Any] = {}

    def bind(self, name: str, address: int, shape: Shape | None = None) -> None:
        is_set = shape is None or self._context.set_input_shape(name, shape)
        if not is_set or not self._context.set_tensor_address(name, address):
            raise RunnerError(
                f"graph {self._graph} | input {name}: got {list(shape or ())} | expected a shape "
                "within the engine's profile | compile with larger limits"
            )

    def output_shape(self, name: str) -> Shape:
        return tuple(self._context.get_tensor_shape(name))

    def allocate_output(self, name: str, allocate: Callable[[int], int]) -> Callable[[], Shape]:
        trt = self._trt

        class Allocator(trt.IOutputAllocator):  # type: ignore[misc,name-defined]
            """Hands out memory during the run."""

            def __init__(self) -> None:
                trt.IOutputAllocator.__init__(self)
                self.shape: Shape = ()

            def reallocate_output_async(
                self, _: str, __: int, size: int, ___: int, ____: int
            ) -> int:
                return allocate(size)

            def notify_shape(self, _: str, shape: Any) -> None:
                self.shape = tuple(shape)

        allocator = self._allocators[name] = Allocator()  # the context does not keep it alive
        self._context.set_output_allocator(name, allocator)
        return lambda: allocator.shape

    def scratch_bytes(self) -> int:
        return int(self._context.update_device_memory_size_for_shapes())

    def execute(self, scratch: int, size_bytes: int, stream: int) -> None:
        self._context.set_device_memory(scratch, size_bytes)
        if not self._context.execute_async_v3(stream):
            raise RunnerError(
                f"graph {self._graph} | the engine failed | expected it to run | see "
                "docs/tensorrt.md, 'Troubleshooting'"
            )
