"""`sparsevlm doctor`: an answer on every machine, and exit code 1 for a broken base alone."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

from sparsevlm_trt.runtime import doctor, packages
from sparsevlm_trt.runtime.cli import main
from sparsevlm_trt.runtime.errors import RunnerError


def report(*args):
    result = CliRunner().invoke(main, ["doctor", "--json", *args])
    return result.exit_code, json.loads(result.stdout)


@pytest.fixture
def without(monkeypatch):
    """Make distributions look missing."""

    def hide(*names):
        real = packages.metadata.version

        def version(name):
            if name in names:
                raise packages.metadata.PackageNotFoundError(name)
            return real(name)

        monkeypatch.setattr(packages.metadata, "version", version)

    return hide


def test_this_machine():
    code, found = report()
    assert code == 0
    assert found["base_works"]
    assert found["cpu"]["allowed_cores"] >= 1
    assert "CPUExecutionProvider" in found["providers"]
    assert {runner["name"]: runner["works"] for runner in found["runners"]}["onnxruntime"]
    # These need extras of their own.
    apart = ("demo", "compile")
    assert all(command["works"] for command in found["commands"] if command["name"] not in apart)


def test_for_people():
    result = CliRunner().invoke(main, ["doctor"])
    assert result.exit_code == 0
    for told in ("Python", "processor", "ONNX Runtime", "tokenizers", "The base install works."):
        assert told in result.stdout


def test_a_deploy_box_lacks_the_export_and_is_sound(without):
    without("torch", "onnx")
    code, found = report()
    assert code == 0
    works = {command["name"]: command["works"] for command in found["commands"]}
    assert (
        works
        | {
            "export": False,
            "run": True,
            "look": True,
            "inspect": True,
            "parity": False,
            "evaluate": True,
            "doctor": True,
            "demo": False,
        }
        == works
    )
    export = found["commands"][0]
    assert export["reason"] == "needs onnx, torch: pip install 'sparsevlm-trt[export]'"


def test_a_broken_base_is_exit_code_1(without):
    without("tokenizers")
    code, found = report()
    assert code == 1
    assert not found["base_works"]
    assert not any(command["works"] for command in found["commands"])
    assert "The base install is broken" in CliRunner().invoke(main, ["doctor"]).stdout


def test_a_runner_that_does_not_open_is_an_answer(monkeypatch):
    def refuse(name):
        raise RunnerError(f"runner {name} | no device")

    monkeypatch.setattr(doctor, "open_runner", refuse)
    code, found = report()
    assert code == 0
    runner = {"name": "onnxruntime", "works": False, "reason": "runner onnxruntime | no device"}
    assert found["runners"][0] == runner
