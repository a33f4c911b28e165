"""What the runner asks of a GPU, and CUDA's driver as the one that answers."""

from __future__ import annotations

from typing import Any, Protocol

from sparsevlm_trt.runtime.device_array import Lines, Way
from sparsevlm_trt.runtime.errors import RunnerError

__all__ = ["CudaDevice", "Device"]


class Device(Protocol):
    """One GPU with one stream: all that is asked of it happens in the order of asking.

    Attributes:
        stream: Handle that an engine is given to work on.
    """

    stream: int

    def allocate(self, size_bytes: int) -> int:
        """Reserve memory; returns its address, a multiple of 256.

        Raises:
            RunnerError: There is not so much left.
        """

    def free(self, address: int) -> None:
        """Give memory back."""

    def fill_zero(self, address: int, size_bytes: int) -> None:
        """Write zeros."""

    def copy(self, way: Way, target: Lines, source: Lines, /, *, rows: int, width: int) -> None:
        """Copy rows of bytes; to the host and from it, done on return."""

    def synchronize(self) -> None:
        """Wait until everything asked so far is done."""

    def begin_capture(self) -> None:
        """Record what is asked from now on, in place of doing it."""

    def end_capture(self) -> Any:
        """End the recording; returns what `launch` takes.

        Raises:
            RunnerError: Something that was asked cannot be recorded.
        """

    def launch(self, recorded: Any) -> None:
        """Do what was recorded."""

    def close(self) -> None:
        """Give the stream back."""


class CudaDevice:
    """A GPU through cuda-python, in its primary context, the one that CUDA libraries use."""

    def __init__(self, ordinal: int = 0) -> None:
        """Start the driver and make a stream.

        Args:
            ordinal: Which GPU.

        Raises:
            RunnerError: cuda-python, the driver or the GPU is missing.
        """
        where = "expected an NVIDIA GPU and its driver | compile needs none, running does: use "
        where += "--runner onnxruntime here"
        try:
            from cuda.bindings import driver
        except ImportError as error:
            raise RunnerError(
                f"runner tensorrt | {error} | expected the packages of the tensorrt extra | "
                "pip install 'sparsevlm-trt[tensorrt]'"
            ) from error
        self._driver = driver
        try:
            status = driver.cuInit(0)[0]
        except Exception as error:  # cuda-python raises its own kinds where no driver is found
            reason = " ".join(str(error).split())[:120]
            raise RunnerError(
                f"runner tensorrt | no NVIDIA driver ({reason}) | {where}"
            ) from error
        if status != driver.CUresult.CUDA_SUCCESS:
            raise RunnerError(f"runner tensorrt | the driver does not start: {status} | {where}")
        device = self._ask("cuDeviceGet", ordinal)
        self._context = self._ask("cuDevicePrimaryCtxRetain", device)
        self._enter()
        flags = driver.CUstream_flags.CU_STREAM_NON_BLOCKING
        self._stream = self._ask("cuStreamCreate", flags)
        self.stream = int(self._stream)

    def allocate(self, size_bytes: int) -> int:
        """Reserve memory; see `Device.allocate`."""
        self._enter()
        return int(self._ask("cuMemAlloc", max(1, size_bytes)))

    def free(self, address: int) -> None:
        """Give memory back; see `Device.free`."""
        self._enter()
        self._ask("cuMemFree", address)

    def fill_zero(self, address: int, size_bytes: int) -> None:
        """Write zeros; see `Device.fill_zero`."""
        self._enter()
        if size_bytes:
            self._ask("cuMemsetD8Async", address, 0, size_bytes, self._stream)

    def copy(self, way: Way, target: Lines, source: Lines, /, *, rows: int, width: int) -> None:
        """Copy rows; see `Device.copy`."""
        if not rows or not width:
            return
        self._enter()
        kinds = self._driver.CUmemorytype
        host, device = kinds.CU_MEMORYTYPE_HOST, kinds.CU_MEMORYTYPE_DEVICE
        copy = self._driver.CUDA_MEMCPY2D()
        copy.srcMemoryType = host if way == "to_device" else device
        copy.dstMemoryType = host if way == "to_host" else device
        if way == "to_device":
            copy.srcHost = source[0]
        else:
            copy.srcDevice = source[0]
        if way == "to_host":
            copy.dstHost = target[0]
        else:
            copy.dstDevice = target[0]
        # A pitch below the width is refused, even of a single row.
        copy.srcPitch, copy.dstPitch = max(source[1], width), max(target[1], width)
        copy.WidthInBytes, copy.Height = width, rows
        self._ask("cuMemcpy2DAsync", copy, self._stream)
        if way != "within":  # the host's array may be gone, or be read, right after
            self._ask("cuStreamSynchronize", self._stream)

    def synchronize(self) -> None:
        """Wait; see `Device.synchronize`."""
        self._enter()
        self._ask("cuStreamSynchronize", self._stream)

    def begin_capture(self) -> None:
        """Start recording; see `Device.begin_capture`."""
        self._enter()
        mode = self._driver.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL
        self._ask("cuStreamBeginCapture", self._stream, mode)

    def end_capture(self) -> Any:
        """End recording; see `Device.end_capture`."""
        graph = self._ask("cuStreamEndCapture", self._stream)
        recorded = self._ask("cuGraphInstantiate", graph, 0)
        self._ask("cuGraphDestroy", graph)
        return recorded

    def launch(self, recorded: Any) -> None:
        """Do what was recorded; see `Device.launch`."""
        self._enter()
        self._ask("cuGraphLaunch", recorded, self._stream)

    def close(self) -> None:
        """Give the stream back."""
        self._enter()
        self._ask("cuStreamDestroy", self._stream)

    def _enter(self) -> None:
        """Take the context: it belongs to a thread, and this may be a new one."""
        self._ask("cuCtxSetCurrent", self._context)

    def _ask(self, call: str, *arguments: Any) -> Any:
        """Call the driver; returns its one result, if any.

        Raises:
            RunnerError: It reports an error.
        """
        status, *results = getattr(self._driver, call)(*arguments)
        if status != self._driver.CUresult.CUDA_SUCCESS:
            raise RunnerError(
                f"runner tensorrt | {call}: {status.name} | expected a working GPU with enough "
                "memory | see nvidia-smi"
            )
        return results[0] if results else None
