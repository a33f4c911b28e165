"""The machine a measurement was taken on, and how much of it others used meanwhile."""

from __future__ import annotations

import os
import platform
import time
from pathlib import Path
from typing import Any

from sparsevlm_trt.runtime.cpu import read_cpu
from sparsevlm_trt.runtime.packages import installed_version

__all__ = ["BusyMeter", "describe_machine", "grown_bytes", "resident_bytes"]

_STAT = Path("/proc/stat")
_PACKAGES = ("onnxruntime", "openvino", "torch", "transformers", "numpy")


def describe_machine(threads: int) -> dict[str, Any]:
    """Processor, threads used and versions."""
    cpu = read_cpu()
    found = {name: installed_version(name) for name in _PACKAGES}
    return {
        "cpu": cpu.model,
        "instructions": list(cpu.flags),
        "cores": cpu.cores,
        "threads": threads,
        "python": platform.python_version(),
        "versions": {name: version for name, version in found.items() if version},
    }


def resident_bytes() -> int | None:
    """Memory of this process that is in RAM, mapped files included; None where unknown."""
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    except (OSError, ValueError, IndexError):
        return None
    return pages * os.sysconf("SC_PAGE_SIZE")


def grown_bytes(before: int | None) -> int | None:
    """Memory that this process took since a count by `resident_bytes`; None where unknown."""
    after = resident_bytes()
    return None if before is None or after is None else after - before


class BusyMeter:
    """Share of the machine's processor time that other processes took since it was made."""

    def __init__(self, stat: Path = _STAT) -> None:
        """Start now."""
        self._stat = stat
        self._start = self._busy()
        self._own, self._wall = time.process_time(), time.perf_counter()

    def others(self) -> float | None:
        """The share so far, 0 to 1; None where the system does not tell."""
        now = self._busy()
        wall = (time.perf_counter() - self._wall) * (os.cpu_count() or 1)
        if now is None or self._start is None or not wall:
            return None
        theirs = now - self._start - (time.process_time() - self._own)
        return min(1.0, max(0.0, theirs / wall))

    def _busy(self) -> float | None:
        """Seconds of all cores that were not idle."""
        try:
            fields = self._stat.read_text(encoding="ascii").splitlines()[0].split()[1:9]
        except (OSError, IndexError):
            return None
        ticks = [int(field) for field in fields]
        return (sum(ticks) - ticks[3] - ticks[4]) / os.sysconf("SC_CLK_TCK")  # idle, iowait
