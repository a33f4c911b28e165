"""A GPU and a TensorRT of numpy and ONNX Runtime, for what lies above them.

The device is host memory behind addresses; an engine runs its ONNX graph on what lies at the
addresses that were bound. Only what the real ones refuse is added: addresses that are not aligned,
memory that was never written, and reading a result without waiting for it.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime

from sparsevlm_trt.runtime.bundle import Bundle
from sparsevlm_trt.runtime.engines.profiles import SHAPE_INPUTS
from sparsevlm_trt.runtime.engines.record import Machine
from sparsevlm_trt.runtime.graph_spec import GraphSpec
from sparsevlm_trt.runtime.ort import OnnxRuntimeRunner
from sparsevlm_trt.runtime.tensorrt.arena import ALIGNMENT
from sparsevlm_trt.runtime.tensorrt.engine import Io

GARBAGE = 0xFF  # as float16 it is not a number


class HostDevice:
    """Host memory that plays a device's, and a stream that works at once."""

    stream = 7

    def __init__(self) -> None:
        self._blocks: dict[int, tuple[ctypes.Array[ctypes.c_char], int]] = {}
        self._recording: list[Callable[[], None]] | None = None
        self.copies: list[tuple[str, int, int]] = []
        self.launches = self.recordings = 0
        self.closed = False

    def allocate(self, size_bytes: int) -> int:
        block = ctypes.create_string_buffer(size_bytes + ALIGNMENT)
        address = -(-ctypes.addressof(block) // ALIGNMENT) * ALIGNMENT
        ctypes.memset(address, GARBAGE, size_bytes)
        self._blocks[address] = (block, size_bytes)
        return address

    def free(self, address: int) -> None:
        del self._blocks[address]

    def fill_zero(self, address: int, size_bytes: int) -> None:
        ctypes.memset(address, 0, size_bytes)

    def copy(self, way, target, source, /, *, rows: int, width: int) -> None:
        assert self._recording is None
        self.copies.append((way, rows, width))
        for row in range(rows):
            ctypes.memmove(target[0] + row * target[1], source[0] + row * source[1], width)

    def synchronize(self) -> None:
        pass

    def do(self, work: Callable[[], None]) -> None:
        """Put work on the stream: now, or when the recording is launched."""
        if self._recording is None:
            work()
        else:
            self._recording.append(work)

    def begin_capture(self) -> None:
        self._recording = []

    def end_capture(self) -> list[Callable[[], None]]:
        assert self._recording is not None
        recorded, self._recording = self._recording, None
        self.recordings += 1
        return recorded

    def launch(self, recorded) -> None:
        self.launches += 1
        for work in recorded:
            work()

    def close(self) -> None:
        self.closed = True

    @property
    def open_bytes(self) -> int:
        return sum(size for _, size in self._blocks.values())


class HostLibrary:
    """Loads graphs in place of plans."""

    def __init__(self, bundle: Bundle, device: HostDevice) -> None:
        self.bundle, self.device = bundle, device
        OnnxRuntimeRunner().close()  # the process has one thread pool

    def load(self, graph: str, plan: Path) -> HostEngine:
        assert plan.is_file()
        options = onnxruntime.SessionOptions()
        options.use_per_session_threads = False
        options.log_severity_level = 3
        session = onnxruntime.InferenceSession(str(self.bundle.graph_path(graph)), options)
        return HostEngine(self.bundle.manifest.graphs[graph], session, self.device)


class HostEngine:
    def __init__(self, spec: GraphSpec, session, device: HostDevice) -> None:
        self.spec, self.session, self.device = spec, session, device
        self.inputs = {t.name: Io(np.dtype(t.dtype), t.name in SHAPE_INPUTS) for t in spec.inputs}
        self.outputs = {t.name: Io(np.dtype(t.dtype), False) for t in spec.outputs}

    def context(self, profile: int, stream: int) -> HostContext:
        assert stream == self.device.stream
        return HostContext(self)


class HostContext:
    def __init__(self, engine: HostEngine) -> None:
        self.engine = engine
        self.addresses: dict[str, int] = {}
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.sizes: dict[str, int] = {}

    def bind(self, name: str, address: int, shape=None) -> None:
        assert address
        if name not in self.engine.inputs or not self.engine.inputs[name].on_host:
            assert address % ALIGNMENT == 0, name
        self.addresses[name] = address
        if shape is not None:
            self.shapes[name] = tuple(shape)
        if name in SHAPE_INPUTS:  # read when it is bound, as shapes are inferred with it
            self.sizes[name] = ctypes.c_int64.from_address(address).value

    def output_shape(self, name: str) -> tuple[int, ...]:
        """Try it out: the shapes of a graph follow from those of its inputs and the sizes."""
        zeros = {}
        for key, io in self.engine.inputs.items():
            zeros[key] = np.zeros(self.shapes[key], io.dtype)
        for key, size in self.sizes.items():
            zeros[key][:] = size
        return self.engine.session.run([name], zeros)[0].shape

    def allocate_output(self, name, allocate):
        raise AssertionError("every size here follows from the inputs'")

    def scratch_bytes(self) -> int:
        return 1000

    def execute(self, scratch: int, size_bytes: int, stream: int) -> None:
        assert scratch % ALIGNMENT == 0
        assert size_bytes == 1000
        addresses, shapes = dict(self.addresses), dict(self.shapes)

        def work() -> None:
            engine = self.engine
            arrays = {
                name: view(addresses[name], shapes[name], io.dtype)
                for name, io in engine.inputs.items()
            }
            names = list(engine.outputs)
            for name, value in zip(names, engine.session.run(names, arrays), strict=True):
                target = view(addresses[name], value.shape, value.dtype)
                if value.size:
                    target[...] = value

        self.engine.device.do(work)


def view(address: int, shape, dtype) -> np.ndarray:
    """What lies at an address."""
    dtype = np.dtype(dtype)
    size = int(np.prod(shape)) * dtype.itemsize
    memory = (ctypes.c_char * max(1, size)).from_address(address)
    return np.frombuffer(memory, dtype, int(np.prod(shape))).reshape(shape)


def host_library(device: HostDevice):
    """The `library` option of the runner."""

    def make(bundle: Bundle):
        return HostLibrary(bundle, device), Machine("tensorrt-rtx", "1.7.1.116", "", ("89",))

    return make
