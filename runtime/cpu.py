"""The processor: its model, the cores allowed, and the instructions that make inference fast."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from pathlib import Path

from sparsevlm_trt.runtime.threads import allowed_cpus

__all__ = ["Cpu", "read_cpu"]

_CPUINFO = Path("/proc/cpuinfo")
# x86, then ARM; as Linux names them.
_WANTED = (
    *("avx2", "avx512f", "avx_vnni", "avx512_vnni", "avx512_bf16", "avx512_fp16"),
    *("amx_tile", "amx_bf16", "amx_int8"),
    *("asimd", "asimdhp", "bf16", "i8mm", "sve", "sve2", "sme"),
)


@dataclass(frozen=True, slots=True)
class Cpu:
    """A processor.

    Attributes:
        model: Its name.
        machine: Its architecture, such as x86_64.
        cores: Logical cores of the machine.
        allowed_cores: Cores that this process may use.
        flags: Those of its instruction sets that matter here.
    """

    model: str
    machine: str
    cores: int
    allowed_cores: int
    flags: tuple[str, ...]

    @property
    def sums_int8_exactly(self) -> bool:
        """Whether products of 8 bits are added in 32; AVX2 alone adds pairs of them in 16."""
        return not {"avx_vnni", "avx512_vnni", "amx_int8"}.isdisjoint(self.flags)


def read_cpu(cpuinfo: Path = _CPUINFO) -> Cpu:
    """Describe this machine's processor; where Linux's file is missing, without flags."""
    try:
        lines = cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    named: dict[str, str] = {}
    for line in lines:  # every core repeats them; the first speaks for all
        name, _, value = line.partition(":")
        named.setdefault(name.strip(), value.strip())
    present = set((named.get("flags") or named.get("Features") or "").split())
    return Cpu(
        model=named.get("model name") or platform.processor() or "unknown",
        machine=platform.machine(),
        cores=os.cpu_count() or 1,
        allowed_cores=allowed_cpus(),
        flags=tuple(flag for flag in _WANTED if flag in present),
    )
