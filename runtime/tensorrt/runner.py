"""TensorRT as a runner: a bundle's engines on device arrays, on one stream."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import DTypeLike

from sparsevlm_trt.runtime.bundle import Bundle
from sparsevlm_trt.runtime.closing import Closing
from sparsevlm_trt.runtime.device_array import DeviceArray, Tensor
from sparsevlm_trt.runtime.engines.folder import EngineFolder
from sparsevlm_trt.runtime.engines.limits import Limits
from sparsevlm_trt.runtime.engines.profile_choice import choose_profile
from sparsevlm_trt.runtime.engines.record import EngineRecord, Machine
from sparsevlm_trt.runtime.errors import EngineError, RunnerError
from sparsevlm_trt.runtime.tensorrt.arena import ALIGNMENT
from sparsevlm_trt.runtime.tensorrt.decode_step import DecodeStep
from sparsevlm_trt.runtime.tensorrt.device import CudaDevice, Device
from sparsevlm_trt.runtime.tensorrt.engine import Context, Engine, TrtLibrary
from sparsevlm_trt.runtime.tensorrt.library import load_library
from sparsevlm_trt.runtime.tensorrt.memory import DeviceMemory, Holding
from sparsevlm_trt.runtime.tensorrt.request_bytes import forecast_bytes

__all__ = ["PlanLibrary", "TensorRtRtxRunner", "TensorRtRunner"]


class PlanLibrary(Protocol):
    """Loads plans; `TrtLibrary`."""

    def load(self, graph: str, plan: Path) -> Engine:
        """Load the plan of a graph."""


@dataclass(slots=True)
class _Loaded:
    """An engine, its record, and what was made of it so far."""

    graph: str
    engine: Engine
    record: EngineRecord
    contexts: dict[int, Context] = field(default_factory=dict)
    decode: DecodeStep | None = None


class TensorRtRunner(Closing):
    """Runs each graph as an engine; hidden states and caches never leave the device.

    Work is put on one stream and not waited for: the time of a graph is that of asking for it,
    and the waiting falls to whoever reads a result.
    """

    name = "tensorrt"
    target = "tensorrt"

    def __init__(
        self,
        ordinal: int = 0,
        cuda_graphs: bool = True,
        verify_engines: bool = True,
        *,
        device: Device | None = None,
        library: Callable[[Bundle], tuple[PlanLibrary, Machine]] | None = None,
    ) -> None:
        """Start the GPU.

        Args:
            ordinal: Which GPU.
            cuda_graphs: Whether decode steps of one sequence are recorded and launched whole.
            verify_engines: Whether to hash every plan when it is loaded.
            device: A GPU that is open already.
            library: What loads plans, and what they must fit; None: the installed TensorRT.

        Raises:
            RunnerError: There is no GPU, no driver, or no TensorRT.
        """
        self._device = device or CudaDevice(ordinal)
        self._library = library or self._installed
        self._cuda_graphs, self._verify = cuda_graphs, verify_engines
        self._engines: dict[str, _Loaded] = {}
        self._memory: DeviceMemory | None = None
        self._scratch: Holding | None = None
        self._lock = threading.Lock()
        self._command = ""
        self.device = "cuda"

    def _installed(self, _: Bundle) -> tuple[PlanLibrary, Machine]:
        installed = load_library(self.target)
        return TrtLibrary(installed.module), installed.here()

    def load(self, bundle: Bundle, graphs: Sequence[str]) -> None:
        """Load the engines of these graphs; see `Runner.load`.

        Raises:
            RunnerError: One is not built, is altered, or was built for another graph, library or
                GPU; the sentence ends in the command that builds it.
        """
        folder = EngineFolder(bundle, self.target)
        try:
            library, machine = self._library(bundle)
            records = {
                graph: folder.usable(graph, machine, hashes=self._verify) for graph in graphs
            }
        except EngineError as error:
            raise RunnerError(str(error)) from error
        self._command = folder.command()
        if self._memory is None:
            limits = _limits(bundle, next(iter(records.values())))
            self._memory = DeviceMemory(self._device, forecast_bytes(bundle.manifest, limits))
        for graph, record in records.items():
            engine = library.load(graph, folder.plan_path(record))
            loaded = self._engines[graph] = _Loaded(graph, engine, record)
            if self._cuda_graphs and any(stage.graph == graph for stage in bundle.manifest.stages):
                last = len(record.spec.profiles) - 1  # where there are two, it is decode's
                ranges = record.spec.profiles[last]
                loaded.decode = DecodeStep(engine, last, ranges, self._memory)

    def empty(self, shape: Sequence[int], dtype: DTypeLike, /) -> Tensor:
        """Reserve an array on the device; see `Runner.empty`."""
        return DeviceArray.empty(self._memory_of_load(), shape, dtype)

    def run(
        self, graph: str, inputs: Mapping[str, Tensor], into: Mapping[str, Tensor] | None = None
    ) -> dict[str, Tensor]:
        """Run one engine; see `Runner.run`."""
        loaded = self._engines.get(graph)
        if loaded is None:
            raise RunnerError(
                f"graph {graph} | got a call before it was loaded | expected one of: "
                f"{', '.join(self._engines) or 'none'} | load it first"
            )
        missing = [name for name in loaded.engine.inputs if name not in inputs]
        if missing:
            raise RunnerError(
                f"graph {graph} | no input {', '.join(missing)} | expected all of its inputs | "
                "give them"
            )
        places = into or {}
        with self._lock:
            if loaded.decode is not None and loaded.decode.fits(inputs, places):
                return loaded.decode.run(inputs, places)
            return self._run(loaded, inputs, places)

    def _run(
        self, loaded: _Loaded, inputs: Mapping[str, Tensor], into: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        context = self._context(loaded, inputs)
        held: list[Any] = []  # until the work is asked for
        for name, io in loaded.engine.inputs.items():
            array = inputs[name]
            if io.on_host:
                size = np.ascontiguousarray(np.asarray(array), io.dtype)
                held.append(size)
                context.bind(name, size.ctypes.data, size.shape)
                continue
            placed = self._placed(array, io.dtype)
            held.append(placed)
            context.bind(name, placed.pointer, placed.shape)
        made: dict[str, DeviceArray] = {}
        late: dict[str, tuple[list[tuple[int, Holding]], Callable[[], tuple[int, ...]]]] = {}
        for name, io in loaded.engine.outputs.items():
            shape = context.output_shape(name)
            if -1 in shape:
                late[name] = self._late(context, name)
                continue
            place = into.get(name)
            if place is not None and (place.shape, place.dtype) != (shape, io.dtype):
                raise RunnerError(
                    f"graph {loaded.graph} | output {name}: got {io.dtype} {list(shape)} | "
                    f"expected {place.dtype} {list(place.shape)} | export the bundle again"
                )
            if isinstance(place, DeviceArray) and place.pointer % ALIGNMENT == 0:
                made[name] = place
            else:
                made[name] = DeviceArray.empty(self._memory_of_load(), shape, io.dtype)
            context.bind(name, made[name].pointer)
        self._execute(context)
        for name, (given, shape_of) in late.items():
            address, holding = given[-1]
            dtype = loaded.engine.outputs[name].dtype
            memory = self._memory_of_load()
            made[name] = DeviceArray(memory, address, shape_of(), dtype, holding)
        return {name: _delivered(array, into.get(name)) for name, array in made.items()}

    def _context(self, loaded: _Loaded, inputs: Mapping[str, Tensor]) -> Context:
        """The context under the profile that takes these shapes."""
        ranges = loaded.record.spec.profiles
        shapes = {}
        for name, io in loaded.engine.inputs.items():
            array = inputs[name]
            shapes[name] = tuple(np.asarray(array).tolist()) if io.on_host else array.shape
        profile = choose_profile(loaded.graph, ranges, shapes, self._command)
        if profile not in loaded.contexts:
            loaded.contexts[profile] = loaded.engine.context(profile, self._device.stream)
        return loaded.contexts[profile]

    def _placed(self, array: Tensor, dtype: np.dtype[Any]) -> DeviceArray:
        """An input where an engine can read it: on the device, aligned, without gaps."""
        if isinstance(array, np.ndarray):
            array = np.ascontiguousarray(array, dtype)
        elif array.pointer % ALIGNMENT == 0 and array.is_contiguous:
            return array
        placed = DeviceArray.empty(self._memory_of_load(), array.shape, dtype)
        if array.nbytes:
            placed[...] = array
        return placed

    def _late(
        self, context: Context, name: str
    ) -> tuple[list[tuple[int, Holding]], Callable[[], tuple[int, ...]]]:
        """An output whose size only its data tells."""
        given: list[tuple[int, Holding]] = []

        def allocate(size_bytes: int) -> int:
            given.append(self._memory_of_load().allocate(size_bytes))
            return given[-1][0]

        return given, context.allocate_output(name, allocate)

    def _execute(self, context: Context) -> None:
        """Ask for the work; all engines share one scratch memory, as they never run at once."""
        needed = context.scratch_bytes()
        if self._scratch is None or self._scratch.size_bytes < needed:
            self._scratch = None  # before the new one: both may not fit
            self._scratch = self._memory_of_load().reserve(needed)
        context.execute(self._scratch.address, needed, self._device.stream)

    def _memory_of_load(self) -> DeviceMemory:
        if self._memory is None:
            raise RunnerError("runner tensorrt | no engine yet | expected a load | load first")
        return self._memory

    def close(self) -> None:
        """Free engines, memory and stream; a second call does nothing."""
        self._engines.clear()
        self._scratch = None
        if self._memory is not None:
            self._device.synchronize()
            self._memory.close()
            self._memory = None
            self._device.close()


class TensorRtRtxRunner(TensorRtRunner):
    """The same with TensorRT-RTX and its engines."""

    name = "tensorrt-rtx"
    target = "tensorrt-rtx"


def _delivered(array: DeviceArray, place: Tensor | None) -> Tensor:
    """Hand an output over, copied to its place where the engine could not write there."""
    if place is None or place is array:
        return array
    if isinstance(place, DeviceArray):
        place[...] = array
    else:
        place[...] = np.asarray(array)
    return place


def _limits(bundle: Bundle, record: EngineRecord) -> Limits:
    """The limits that an engine was built for, from the arguments in its record."""
    words, given = record.arguments, dict[str, int]()
    for name in ("prompt", "new_tokens", "batch", "images", "image_pixels"):
        option = f"--max-{name.replace('_', '-')}"
        if option in words:
            given[f"max_{name}"] = int(words[words.index(option) + 1])
    return Limits.of(bundle, **given)
