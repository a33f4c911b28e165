"""The main memory, as the machine has it and as a container allows it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

__all__ = ["Memory", "read_memory", "read_peak_bytes"]

_MEMINFO = Path("/proc/meminfo")
_STATUS = Path("/proc/self/status")
_LIMITS = (
    Path("/sys/fs/cgroup/memory.max"),
    Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
)


@dataclass(frozen=True, slots=True)
class Memory:
    """Memory in bytes; None where unknown.

    Attributes:
        total_bytes: Of the machine.
        available_bytes: Free, or taken by caches that would give way.
        limit_bytes: What a container may use; None without a limit below the total.
    """

    total_bytes: int | None
    available_bytes: int | None
    limit_bytes: int | None

    @property
    def room_bytes(self) -> int | None:
        """What may still be taken; None where nothing is known."""
        sizes = (self.available_bytes, self.limit_bytes)
        return min((size for size in sizes if size is not None), default=None)


def read_memory(meminfo: Path = _MEMINFO, limits: tuple[Path, ...] = _LIMITS) -> Memory:
    """Read this machine's memory; Linux only."""
    sizes = _sizes(meminfo)
    total = sizes.get("MemTotal")
    given = [int(text) for path in limits if (text := _text(path).strip()).isdecimal()]
    limit = min(given, default=None)
    if limit is not None and total is not None and limit >= total:
        limit = None
    return Memory(total, sizes.get("MemAvailable"), limit)


def read_peak_bytes(status: Path = _STATUS) -> int:
    """Read the most memory that this process has had.

    `getrusage` would do, but for a process that a larger one started: it tells the other's size.
    """
    peak = _sizes(status).get("VmHWM")
    if peak is not None:
        return peak
    import resource  # Windows has none

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _sizes(file: Path) -> dict[str, int]:
    """Read the sizes of a file of `/proc`, in bytes."""
    sizes: dict[str, int] = {}
    for line in _text(file).splitlines():
        name, _, value = line.partition(":")
        number = value.strip().removesuffix(" kB")
        if number.isdecimal():
            sizes[name] = int(number) * 1024
    return sizes


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii", errors="replace")
    except OSError:
        return ""
