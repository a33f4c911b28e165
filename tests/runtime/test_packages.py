"""Our own requirements, read from our metadata and held against what is installed."""

from __future__ import annotations

from importlib import metadata

import pytest

from sparsevlm_trt.runtime import packages
from sparsevlm_trt.runtime.packages import installed_version, read_packages


@pytest.fixture
def installed(monkeypatch):
    """Pretend: `installed({"thing": "1.2"}, "thing>=1.3")`."""

    def pretend(versions, *requirements):
        def version(name):
            if name not in versions:
                raise metadata.PackageNotFoundError(name)
            return versions[name]

        monkeypatch.setattr(packages.metadata, "version", version)
        monkeypatch.setattr(packages.metadata, "requires", lambda _: list(requirements))
        return {package.name: package for package in read_packages()}

    return pretend


def test_every_requirement_is_listed_once_with_the_part_that_first_needs_it():
    found = [(package.name, package.extra) for package in read_packages()]
    assert len(found) == len(set(found))
    assert ("numpy", None) in found
    assert ("torch", "export") in found
    assert ("gguf", "demo") in found
    assert "mypy" not in dict(found)


def test_missing_old_and_good(installed):
    found = installed(
        {"json": "2.13.0+cpu", "csv": "1.9"},
        "json>=2.9",
        "csv>=1.10",
        'absent>=3,<4; extra == "export"',
        "bare; extra == 'demo'",
    )
    assert found["json"].problem is None
    assert found["json"].fix is None
    assert found["csv"].problem == "older than 1.10"
    assert found["csv"].fix == "pip install 'csv>=1.10'"
    assert (found["absent"].problem, found["absent"].extra) == ("not installed", "export")
    assert found["absent"].wanted == "3"
    assert found["bare"].fix == "pip install bare"


def test_a_module_that_does_not_load(installed):
    found = installed({"no-such-module": "1.0", "other": "1.0"}, "no-such-module", "other")
    assert found["no-such-module"].problem.startswith("does not load: No module named")


def test_another_build_of_onnxruntime_stands_in(installed):
    assert installed({"onnxruntime-gpu": "1.30"}, "onnxruntime>=1.24")["onnxruntime"].version
    assert installed_version("onnxruntime") == "1.30"
