"""Copies to, from and within a GPU's memory, by the driver's library alone."""

from __future__ import annotations

import ctypes

from sparsevlm_trt.runtime.device_array import Lines, Way
from sparsevlm_trt.runtime.errors import RunnerError

__all__ = ["CudaCopy"]

_LIBRARY = "libcuda.so.1"
_HOST, _DEVICE = 1, 2  # CUmemorytype
_KINDS = {"to_device": (_HOST, _DEVICE), "to_host": (_DEVICE, _HOST), "within": (_DEVICE, _DEVICE)}


class _Copy2D(ctypes.Structure):
    """CUDA_MEMCPY2D of the driver's cuda.h."""

    _fields_ = (
        ("srcXInBytes", ctypes.c_size_t),
        ("srcY", ctypes.c_size_t),
        ("srcMemoryType", ctypes.c_uint),
        ("srcHost", ctypes.c_void_p),
        ("srcDevice", ctypes.c_uint64),
        ("srcArray", ctypes.c_void_p),
        ("srcPitch", ctypes.c_size_t),
        ("dstXInBytes", ctypes.c_size_t),
        ("dstY", ctypes.c_size_t),
        ("dstMemoryType", ctypes.c_uint),
        ("dstHost", ctypes.c_void_p),
        ("dstDevice", ctypes.c_uint64),
        ("dstArray", ctypes.c_void_p),
        ("dstPitch", ctypes.c_size_t),
        ("WidthInBytes", ctypes.c_size_t),
        ("Height", ctypes.c_size_t),
    )


class CudaCopy:
    """Copies rows of bytes in the primary context of a GPU, the one that CUDA libraries use."""

    def __init__(self, ordinal: int = 0) -> None:
        """Start the driver.

        Args:
            ordinal: Which GPU.

        Raises:
            RunnerError: There is no driver, or it has no such GPU.
        """
        try:
            self._driver = ctypes.CDLL(_LIBRARY)
        except OSError as error:
            raise RunnerError(
                f"runner | {error} | expected NVIDIA's driver | install it, or run on the CPU"
            ) from error
        self._context = ctypes.c_void_p()
        device = ctypes.c_int()
        self._check("cuInit", self._driver.cuInit(0))
        self._check("cuDeviceGet", self._driver.cuDeviceGet(ctypes.byref(device), ordinal))
        self._check(
            "cuDevicePrimaryCtxRetain",
            self._driver.cuDevicePrimaryCtxRetain(ctypes.byref(self._context), device),
        )

    def __call__(self, way: Way, target: Lines, source: Lines, *, rows: int, width: int) -> None:
        """Copy; see `device_array.Copy`."""
        driver = self._driver
        read, write = _KINDS[way]
        # Contexts belong to threads, and this may be one that has not called CUDA yet.
        self._check("cuCtxSetCurrent", driver.cuCtxSetCurrent(self._context))
        copy = _Copy2D(
            srcMemoryType=read,
            srcHost=source[0] if read == _HOST else None,
            srcDevice=source[0] if read == _DEVICE else 0,
            srcPitch=source[1],
            dstMemoryType=write,
            dstHost=target[0] if write == _HOST else None,
            dstDevice=target[0] if write == _DEVICE else 0,
            dstPitch=target[1],
            WidthInBytes=width,
            Height=rows,
        )
        self._check("cuMemcpy2D", driver.cuMemcpy2DUnaligned_v2(ctypes.byref(copy)))
        # Engines work on streams of their own, which do not wait for this one.
        self._check("cuStreamSynchronize", driver.cuStreamSynchronize(None))

    def _check(self, call: str, status: int) -> None:
        """Raise what the driver reports."""
        if status:
            name = ctypes.c_char_p()
            self._driver.cuGetErrorName(status, ctypes.byref(name))
            told = (name.value or b"unknown").decode(errors="replace")
            raise RunnerError(
                f"runner | {call}: CUDA error {status}, {told} | expected a working GPU with "
                "enough memory | see nvidia-smi"
            )
