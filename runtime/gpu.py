"""The NVIDIA GPUs, asked of the driver's library, so that no CUDA package is needed."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass

__all__ = ["Gpu", "GpuDriver", "read_gpus"]

_LIBRARY = "libcuda.so.1"
_NO_DEVICE = 100  # CUDA_ERROR_NO_DEVICE: a driver without a GPU, as in some containers
# Numbers of CUdevice_attribute.
_CAPABILITY_MAJOR, _CAPABILITY_MINOR = 75, 76


@dataclass(frozen=True, slots=True)
class Gpu:
    """One GPU.

    Attributes:
        name: Its name.
        memory_bytes: Its memory.
        capability: Its compute capability, such as "9.0".
    """

    name: str
    memory_bytes: int
    capability: str


@dataclass(frozen=True, slots=True)
class GpuDriver:
    """The driver and its GPUs.

    Attributes:
        cuda: The newest CUDA version that the driver runs; None without a driver.
        gpus: The GPUs that this process may use.
        problem: Why there are none, if so.
    """

    cuda: str | None
    gpus: tuple[Gpu, ...]
    problem: str | None


def read_gpus() -> GpuDriver:
    """Ask the driver; a missing or failing one is an answer too."""
    driver = _open_driver()
    if driver is None:
        return GpuDriver(None, (), "no NVIDIA driver")
    status = driver.cuInit(0)
    if status not in (0, _NO_DEVICE):
        return GpuDriver(None, (), f"the NVIDIA driver does not start (CUDA error {status})")
    version, count = ctypes.c_int(), ctypes.c_int()
    driver.cuDriverGetVersion(ctypes.byref(version))
    cuda = f"{version.value // 1000}.{version.value % 1000 // 10}"
    if status == 0:
        driver.cuDeviceGetCount(ctypes.byref(count))
    gpus = tuple(_read_gpu(driver, ordinal) for ordinal in range(count.value))
    return GpuDriver(cuda, gpus, None if gpus else "a driver, but no GPU to use")


def _open_driver() -> ctypes.CDLL | None:
    try:
        return ctypes.CDLL(_LIBRARY)
    except OSError:
        return None


def _read_gpu(driver: ctypes.CDLL, ordinal: int) -> Gpu:
    device, memory = ctypes.c_int(), ctypes.c_size_t()
    major, minor = ctypes.c_int(), ctypes.c_int()
    name = ctypes.create_string_buffer(256)
    driver.cuDeviceGet(ctypes.byref(device), ordinal)
    driver.cuDeviceGetName(name, len(name), device)
    driver.cuDeviceTotalMem_v2(ctypes.byref(memory), device)
    driver.cuDeviceGetAttribute(ctypes.byref(major), _CAPABILITY_MAJOR, device)
    driver.cuDeviceGetAttribute(ctypes.byref(minor), _CAPABILITY_MINOR, device)
    capability = f"{major.value}.{minor.value}"
    return Gpu(name.value.decode(errors="replace"), memory.value, capability)
