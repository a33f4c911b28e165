"""How many processor cores this process may really use."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["allowed_cpus"]

_CGROUP = Path("/sys/fs/cgroup")


def allowed_cpus(cgroup: Path = _CGROUP) -> int:
    """Count the cores allowed: the affinity mask, cut by a container's CPU quota, at least 1.

    `os.cpu_count` names the host's cores; one thread for each of them in a container that may
    use two makes every step several times slower.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None
    count = cores or os.cpu_count() or 1
    quota = _quota(cgroup)
    return count if quota is None else max(1, min(count, quota))


def _quota(cgroup: Path) -> int | None:
    """Read the whole cores of a CPU quota, rounded up; None when there is no quota."""
    try:  # version 2: "200000 100000", or "max 100000", microseconds per period
        limit, period = (cgroup / "cpu.max").read_text(encoding="ascii").split()
    except (OSError, ValueError):
        try:
            limit = (cgroup / "cpu/cpu.cfs_quota_us").read_text(encoding="ascii").strip()
            period = (cgroup / "cpu/cpu.cfs_period_us").read_text(encoding="ascii").strip()
        except OSError:
            return None
    if not (limit.isdecimal() and period.isdecimal()) or int(period) == 0:
        return None  # "max", or -1 in version 1: no limit
    return -(-int(limit) // int(period))
