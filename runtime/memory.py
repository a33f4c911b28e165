"""The main memory, as the machine has it and as a container allows it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

__all__ = ["Memory", "read_memory"]

_MEMINFO = Path("/proc/meminfo")
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


def read_memory(meminfo: Path = _MEMINFO, limits: tuple[Path, ...] = _LIMITS) -> Memory:
    """Read this machine's memory; Linux only."""
    sizes: dict[str, int] = {}
    for line in _text(meminfo).splitlines():
        name, _, value = line.partition(":")
        number = value.strip().removesuffix(" kB")
        if number.isdecimal():
            sizes[name] = int(number) * 1024
    total = sizes.get("MemTotal")
    given = [int(text) for path in limits if (text := _text(path).strip()).isdecimal()]
    limit = min(given, default=None)
    if limit is not None and total is not None and limit >= total:
        limit = None
    return Memory(total, sizes.get("MemAvailable"), limit)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii", errors="replace")
    except OSError:
        return ""
