"""Where a comparison ran: numbers from another machine may differ in their last bits."""

from __future__ import annotations

import platform
from importlib import metadata
from pathlib import Path

from sparsevlm_trt.runtime.threads import allowed_cpus

__all__ = ["machine_facts"]

_PACKAGES = (
    "sparsevlm-trt",
    "torch",
    "transformers",
    "onnxruntime",
    "numpy",
    "polygraphy",
    "tokenizers",
    "Pillow",
)


def machine_facts() -> dict[str, str]:
    """Processor, system and versions, by name, sorted."""
    facts = {
        "cpu": _cpu_name(),
        "cpus": str(allowed_cpus()),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
    }
    facts |= {package: metadata.version(package) for package in _PACKAGES}
    return dict(sorted(facts.items()))


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or "unknown"
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.processor() or "unknown"
