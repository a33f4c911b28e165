"""Memory that ONNX Runtime allocates, on the CPU or on a GPU."""

from __future__ import annotations

import ctypes
from functools import cached_property
from typing import Any

import numpy as np

from sparsevlm_trt.runtime.cuda_copy import CudaCopy
from sparsevlm_trt.runtime.device_array import Copy, Lines, Way

__all__ = ["OrtMemory"]


class OrtMemory:
    """Memory from ONNX Runtime's arenas, which keep what was freed for the next request."""

    def __init__(self, onnxruntime: Any, device: str, ordinal: int = 0) -> None:
        """Name a device; nothing is asked of it yet.

        Args:
            onnxruntime: The package.
            device: "cpu" or "cuda".
            ordinal: Which of them.
        """
        self.device, self.ordinal = device, ordinal
        self._allocate = onnxruntime.OrtValue.ortvalue_from_shape_and_type

    @cached_property
    def copy(self) -> Copy:
        """Copies rows; see `Memory.copy`. Raises RunnerError where there is no such GPU."""
        return CudaCopy(self.ordinal) if self.device == "cuda" else _copy_on_host

    def allocate(self, size_bytes: int) -> tuple[int, object]:
        """Reserve bytes; see `Memory.allocate`."""
        value = self._allocate([max(1, size_bytes)], np.uint8, self.device, self.ordinal)
        return value.data_ptr(), value


def _copy_on_host(way: Way, target: Lines, source: Lines, *, rows: int, width: int) -> None:
    """Copy rows where the device is the host itself."""
    for row in range(rows):
        ctypes.memmove(target[0] + row * target[1], source[0] + row * source[1], width)
