"""Processor, memory and GPUs, read from files and a driver of our own making."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from sparsevlm_trt.runtime import gpu
from sparsevlm_trt.runtime.cpu import read_cpu
from sparsevlm_trt.runtime.gpu import Gpu, GpuDriver, read_gpus
from sparsevlm_trt.runtime.memory import read_memory, read_peak_bytes


def test_an_x86_processor(tmp_path):
    file = tmp_path / "cpuinfo"
    core = "model name\t: Fast CPU\nflags\t\t: fpu avx2 avx512f amx_tile amx_bf16\n\n"
    file.write_text(core * 2)
    cpu = read_cpu(file)
    assert cpu.model == "Fast CPU"
    assert cpu.flags == ("avx2", "avx512f", "amx_tile", "amx_bf16")
    assert 1 <= cpu.allowed_cores <= cpu.cores


@pytest.mark.parametrize(
    ("flags", "is_exact"),
    [("avx2 fma", False), ("avx2 avx_vnni", True), ("avx512f avx512_vnni", True), ("", False)],
)
def test_int8_products_saturate_without_vnni(tmp_path, flags, is_exact):
    file = tmp_path / "cpuinfo"
    file.write_text(f"model name\t: CPU\nflags\t\t: {flags}\n")
    assert read_cpu(file).sums_int8_exactly is is_exact


def test_an_arm_processor(tmp_path):
    file = tmp_path / "cpuinfo"
    file.write_text("processor : 0\nFeatures : fp asimd bf16 i8mm sve\n")
    assert read_cpu(file).flags == ("asimd", "bf16", "i8mm", "sve")


def test_a_processor_that_says_nothing(tmp_path):
    assert read_cpu(tmp_path / "missing").flags == ()


def test_memory_and_a_container_limit(tmp_path):
    meminfo, limit = tmp_path / "meminfo", tmp_path / "memory.max"
    meminfo.write_text("MemTotal:       2000 kB\nMemAvailable:   1000 kB\nHugePages_Total: 0\n")
    limit.write_text("1024000\n")
    memory = read_memory(meminfo, (limit,))
    assert memory.total_bytes == 2000 * 1024
    assert memory.available_bytes == 1000 * 1024
    assert memory.limit_bytes == 1024000


@pytest.mark.parametrize("text", ["max", "9223372036854771712"])
def test_no_limit(tmp_path, text):
    meminfo, limit = tmp_path / "meminfo", tmp_path / "memory.max"
    meminfo.write_text("MemTotal: 2000 kB\n")
    limit.write_text(text)
    assert read_memory(meminfo, (limit,)).limit_bytes is None
    assert read_memory(tmp_path / "no", ()).total_bytes is None


class Driver:
    """The calls of libcuda that we make."""

    def __init__(self, status=0, count=1):
        self.status, self.count = status, count

    def cuInit(self, _):  # noqa: N802
        return self.status

    def cuDriverGetVersion(self, version):  # noqa: N802
        version._obj.value = 13020

    def cuDeviceGetCount(self, count):  # noqa: N802
        count._obj.value = self.count

    def cuDeviceGet(self, device, ordinal):  # noqa: N802
        device._obj.value = ordinal

    def cuDeviceGetName(self, name, size, _):  # noqa: N802
        assert size == 256
        name.value = b"Big GPU"

    def cuDeviceTotalMem_v2(self, memory, _):  # noqa: N802
        memory._obj.value = 80_000_000_000

    def cuDeviceGetAttribute(self, value, attribute, _):  # noqa: N802
        value._obj.value = {75: 9, 76: 0}[attribute]


@pytest.mark.parametrize(
    ("driver", "expected"),
    [
        (None, GpuDriver(None, (), "no NVIDIA driver")),
        (Driver(), GpuDriver("13.2", (Gpu("Big GPU", 80_000_000_000, "9.0"),), None)),
        (Driver(status=100), GpuDriver("13.2", (), "a driver, but no GPU to use")),
        (
            Driver(status=999),
            GpuDriver(None, (), "the NVIDIA driver does not start (CUDA error 999)"),
        ),
    ],
)
def test_gpus(monkeypatch, driver, expected):
    monkeypatch.setattr(gpu, "_open_driver", lambda: driver)
    assert read_gpus() == expected


def test_the_real_driver_or_its_absence_answers():
    found = read_gpus()
    assert found.gpus or found.problem


def test_a_process_knows_its_own_peak_and_not_its_parents():
    code = "from sparsevlm_trt.runtime.memory import read_peak_bytes; print(read_peak_bytes())"
    weight = b"\1" * 300_000_000
    told = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, check=True)
    assert 0 < int(told.stdout) < len(weight)
    assert read_peak_bytes(Path("/nowhere")) >= len(weight)
