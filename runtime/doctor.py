"""What this machine can run and what is missing, as plain values and as text."""

from __future__ import annotations

import platform
import shutil
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from sparsevlm_trt.runtime.commands.registry import COMMANDS
from sparsevlm_trt.runtime.cpu import read_cpu
from sparsevlm_trt.runtime.errors import SparseVLMError
from sparsevlm_trt.runtime.extras import DISTRIBUTION, pip_command
from sparsevlm_trt.runtime.gpu import read_gpus
from sparsevlm_trt.runtime.memory import read_memory
from sparsevlm_trt.runtime.packages import Package, installed_version, read_packages
from sparsevlm_trt.runtime.plain_json import plain_from
from sparsevlm_trt.runtime.runner import RUNNERS, open_runner
from sparsevlm_trt.runtime.runner_choice import candidates
from sparsevlm_trt.runtime.table import format_fields, format_table
from sparsevlm_trt.runtime.units import spell_bytes

__all__ = ["doctor_report", "doctor_text"]

# Distributions that bring TensorRT's modules.
_TENSORRT = ("tensorrt", "tensorrt-cu13", "tensorrt-cu12", "tensorrt-rtx")


def doctor_report() -> dict[str, Any]:
    """Look around; nothing here raises, what fails is part of the answer."""
    packages = read_packages()
    tensorrt = {name: version for name in _TENSORRT if (version := installed_version(name))}
    return {
        "version": installed_version(DISTRIBUTION),
        "base_works": not _problems(packages, None),
        "python": {"version": platform.python_version(), "executable": sys.executable},
        "os": platform.platform(),
        "cpu": plain_from(read_cpu()),
        "memory": plain_from(read_memory()),
        "cuda": plain_from(read_gpus()),
        "tensorrt": {"packages": tensorrt, "trtexec": shutil.which("trtexec")},
        "providers": _providers(),
        "packages": [{**plain_from(package), "fix": package.fix} for package in packages],
        "runners": [_try_runner(name) for name in RUNNERS],
        "auto": _auto(),
        "commands": [
            _judge_command(name, spec.extra, packages)
            for name, spec in COMMANDS.items()
            if not spec.hidden
        ],
    }


def doctor_text(report: Mapping[str, Any]) -> str:
    """Tell a report to people."""
    packages = [
        (
            package["name"],
            package["extra"] or "base",
            package["version"],
            package["problem"] or "ok",
            package["fix"] or "",
        )
        for package in report["packages"]
    ]
    verdicts = [
        (kind, entry["name"], "works" if entry["works"] else "no", entry["reason"] or "")
        for kind, group in (("runner", "runners"), ("command", "commands"))
        for entry in report[group]
    ]
    return "\n\n".join(
        [
            format_fields(_machine_fields(report)),
            format_table(["package", "part", "version", "state", "to mend it"], packages),
            format_table(["", "name", "state", "reason"], verdicts),
            f"--runner auto takes {report['auto']['takes']}, of what works here.\n"
            + "\n".join(f"  not {line}" for line in report["auto"]["passed_over"]),
            "The base install works."
            if report["base_works"]
            else f"The base install is broken: {pip_command(None)}",
        ]
    )


def _machine_fields(report: Mapping[str, Any]) -> list[tuple[str, object]]:
    cpu, memory, cuda = report["cpu"], report["memory"], report["cuda"]
    cores = f"{cpu['allowed_cores']} of {cpu['cores']} cores allowed"
    sizes = [
        f"{spell_bytes(memory[key])} {word}"
        for key, word in (
            ("total_bytes", "in all"),
            ("available_bytes", "available"),
            ("limit_bytes", "allowed to this container"),
        )
        if memory[key] is not None
    ]
    gpus = [
        f"{gpu['name']}, {spell_bytes(gpu['memory_bytes'])}, compute {gpu['capability']}"
        for gpu in cuda["gpus"]
    ]
    driver = f"driver for CUDA {cuda['cuda']}" if cuda["cuda"] else None
    found = [f"{name} {version}" for name, version in report["tensorrt"]["packages"].items()]
    if report["tensorrt"]["trtexec"]:
        found.append(report["tensorrt"]["trtexec"])
    python = report["python"]
    return [
        ("sparsevlm-trt", report["version"]),
        ("Python", f"{python['version']} ({python['executable']})"),
        ("system", report["os"]),
        ("processor", f"{cpu['model']} ({cpu['machine']}), {cores}"),
        ("instructions", " ".join(cpu["flags"]) or "unknown"),
        ("memory", ", ".join(sizes) or "unknown"),
        ("GPU", "; ".join([*gpus, *filter(None, (driver, cuda["problem"]))])),
        ("TensorRT", ", ".join(found) or "not found"),
        ("ONNX Runtime", ", ".join(report["providers"]) or "no execution provider"),
    ]


def _providers() -> list[str]:
    """Execution providers of the ONNX Runtime that is installed; none where it does not load."""
    try:
        import onnxruntime
    except Exception:  # the packages' table tells it
        return []
    return list(onnxruntime.get_available_providers())


def _auto() -> dict[str, Any]:
    """What `--runner auto` takes for a bundle that has engines for all, and why not the others."""
    passed: list[str] = []
    for candidate in candidates():
        problem = candidate.problem
        if problem is None:
            tried = _try_runner(candidate.name, **candidate.options)
            problem = None if tried["works"] else tried["reason"]
        if problem is None:
            return {"takes": candidate.name, "passed_over": passed}
        passed.append(f"{candidate.label}: {problem}")
    return {"takes": None, "passed_over": passed}


def _try_runner(name: str, **options: Any) -> dict[str, Any]:
    """Open a runner, without a bundle."""
    try:
        with open_runner(name, **options) as runner:
            return {"name": name, "works": True, "reason": f"on {runner.device}"}
    except SparseVLMError as error:
        return {"name": name, "works": False, "reason": str(error)}
    except Exception as error:  # another version of an engine can fail anyhow
        return {"name": name, "works": False, "reason": f"{type(error).__name__}: {error}"}


def _judge_command(name: str, extra: str | None, packages: Sequence[Package]) -> dict[str, Any]:
    """Say whether what a command needs is there."""
    bad = _problems(packages, extra)
    reason = None
    if bad:
        told = ", ".join(map(_spell_problem, bad))
        reason = f"needs {told}: {pip_command(extra)}"
    return {"name": name, "works": not bad, "reason": reason}


def _spell_problem(package: Package) -> str:
    return package.name if package.version is None else f"{package.name} ({package.problem})"


def _problems(packages: Sequence[Package], extra: str | None) -> list[Package]:
    """Packages that keep a part from working: the demo needs the export's, and all the base's."""
    needed = (None, "export", "demo") if extra == "demo" else (None, extra)
    return [package for package in packages if package.problem and package.extra in needed]
