"""The packages that we need, by part of the program, and which of them are installed."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from importlib import import_module, metadata
from importlib.util import find_spec

from sparsevlm_trt.runtime.extras import DISTRIBUTION

__all__ = ["EXTRAS", "Package", "installed_version", "read_packages"]

EXTRAS = ("export", "demo", "serve", "openvino", "tensorrt")  # those that a user installs
_NAME = re.compile(r"[A-Za-z0-9._-]+")
_OLDEST = re.compile(r">=\s*([0-9.]+)")
_EXTRA = re.compile(r"extra == ['\"]([\w.-]+)['\"]")
_MODULES = {
    "pillow": "PIL",
    "cuda-python": "cuda.bindings",
}  # where it is not the distribution's name
# Builds of ONNX Runtime that bring the same module under another name.
_STAND_INS = {
    "onnxruntime": ("onnxruntime-gpu", "onnxruntime-openvino", "onnxruntime-directml"),
}


@dataclass(frozen=True, slots=True)
class Package:
    """A package that some part of the program needs.

    Attributes:
        name: Its name for pip.
        wanted: The oldest version that will do, "" for any.
        extra: The extra that brings it first; None for the base install.
        version: The version installed; None where missing.
        problem: What is wrong with it; None where nothing is.
    """

    name: str
    wanted: str
    extra: str | None
    version: str | None
    problem: str | None

    @property
    def fix(self) -> str | None:
        """The pip command that mends it; None where nothing is wrong."""
        if self.problem is None:
            return None
        return (
            f"pip install '{self.name}>={self.wanted}'"
            if self.wanted
            else (f"pip install {self.name}")
        )


def read_packages() -> tuple[Package, ...]:
    """List our requirements: base install first, each package once.

    Packages of the base install are imported, to see that they load; of the others, some of which
    take seconds, only the metadata is read.
    """
    listed: dict[str, Package] = {}
    for requirement in sorted(_requirements(), key=_order):
        name, wanted, extra = requirement
        if name.lower() not in listed and extra in (None, *EXTRAS):
            listed[name.lower()] = _look_up(name, wanted, extra)
    return tuple(listed.values())


def installed_version(name: str) -> str | None:
    """Version of a distribution, or of one that stands in for it; None where missing."""
    found = map(_version, (name, *_STAND_INS.get(name, ())))
    return next((version for version in found if version is not None), None)


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _requirements() -> Iterable[tuple[str, str, str | None]]:
    """Read (name, oldest version, extra) from our own metadata."""
    for line in metadata.requires(DISTRIBUTION) or ():
        name, oldest, extra = _NAME.match(line), _OLDEST.search(line), _EXTRA.search(line)
        if name is not None:
            yield name[0], oldest[1] if oldest else "", extra[1] if extra else None


def _order(requirement: tuple[str, str, str | None]) -> int:
    extra = requirement[2]
    return EXTRAS.index(extra) + 1 if extra in EXTRAS else 0


def _look_up(name: str, wanted: str, extra: str | None) -> Package:
    version = installed_version(name)
    problem = None
    if version is None:
        problem = "not installed"
    elif _release(version) < _release(wanted):
        problem = f"older than {wanted}"
    else:
        problem = _load_problem(_module(name), is_imported=extra is None)
    return Package(name, wanted, extra, version, problem)


def _load_problem(module: str, *, is_imported: bool) -> str | None:
    try:
        if is_imported:
            import_module(module)
        elif find_spec(module) is None:
            return "its module is missing"
    except Exception as error:  # a broken extension can raise anything
        return f"does not load: {' '.join(str(error).split())[:200]}"
    return None


def _module(name: str) -> str:
    return _MODULES.get(name.lower(), name.lower().replace("-", "_"))


def _release(version: str) -> tuple[int, ...]:
    """Numbers of a version up to the first that is none: 2.13.0+cpu -> (2, 13, 0)."""
    found = re.match(r"\d+(\.\d+)*", version)
    return tuple(int(part) for part in found[0].split(".")) if found else ()
