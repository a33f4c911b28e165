"""The group: nothing heavy loaded, errors told in a sentence, exit codes that scripts rely on."""

from __future__ import annotations

import json
import subprocess
import sys
import types
from importlib import metadata

import click
import pytest
from click.testing import CliRunner

from sparsevlm_trt.runtime.cli import main
from sparsevlm_trt.runtime.commands import registry
from sparsevlm_trt.runtime.commands.registry import COMMANDS, CommandSpec
from sparsevlm_trt.runtime.errors import InputError, PlanError

HEAVY = ("torch", "transformers", "onnx", "onnxruntime", "PIL", "tokenizers", "jinja2")


@click.group()
def commands():
    """Commands that end in every way a command can; found here by their names."""


@commands.command()
def good():
    click.echo("done")


@commands.command()
def refuses():
    raise PlanError("budget | got 0 | expected 192 | change it")


@commands.command()
def interrupted():
    raise KeyboardInterrupt


@commands.command()
def tells_itself():
    raise click.ClickException("image | broken") from InputError("image | broken")


@commands.command()
def wrong():
    raise ZeroDivisionError


@pytest.fixture
def invoke(monkeypatch):
    """Run the group with the commands above."""
    fake = types.ModuleType("fake_commands")
    for name, command in commands.commands.items():
        monkeypatch.setitem(COMMANDS, name, CommandSpec(f"fake_commands:{name}", "A command."))
        setattr(fake, name, command)
    monkeypatch.setitem(sys.modules, "fake_commands", fake)
    return lambda *args: CliRunner().invoke(main, list(args))


def python(*args, **options):
    return subprocess.run(
        [sys.executable, *args],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        **options,
    )


def test_a_command_runs(invoke):
    result = invoke("good")
    assert (result.exit_code, result.stdout, result.stderr) == (0, "done\n", "")


def test_an_error_with_a_remedy_is_one_sentence_and_exit_code_1(invoke):
    result = invoke("refuses")
    assert result.exit_code == 1
    assert result.stdout == ""
    assert result.stderr == "Error: budget | got 0 | expected 192 | change it\n"


@pytest.mark.parametrize("name", ["refuses", "tells-itself"])
def test_debug_shows_the_error_itself(invoke, name):
    result = invoke("--debug", name)
    assert result.exit_code == 1
    assert isinstance(result.exception, PlanError if name == "refuses" else InputError)


def test_an_error_without_a_remedy_is_a_bug_and_keeps_its_traceback(invoke):
    assert isinstance(invoke("wrong").exception, ZeroDivisionError)


def test_an_interrupt_is_exit_code_130_without_a_traceback(invoke):
    result = invoke("interrupted")
    assert result.exit_code == 130
    assert result.stderr == "Interrupted.\n"


@pytest.mark.parametrize("args", [["nonsense"], ["--nonsense"], ["run"], ["run", "a", "b", "--x"]])
def test_wrong_usage_is_exit_code_2(args):
    result = CliRunner().invoke(main, args)
    assert result.exit_code == 2
    assert "Error: " in result.stderr


def test_version():
    result = CliRunner().invoke(main, ["--version"])
    assert metadata.version("sparsevlm-trt") in result.stdout


def test_help_lists_every_command_but_hidden_ones():
    result = CliRunner().invoke(main, ["--help"])
    lines = result.stdout.partition("Commands:")[2].partition("\n\n")[0].splitlines()
    shown = [line.split()[0] for line in lines if line.startswith("  ") and line[2] != " "]
    assert shown == [name for name, spec in COMMANDS.items() if not spec.hidden]
    assert {"export", "run", "inspect", "compile", "doctor", "demo"} <= set(shown)
    assert "help-page" not in result.stdout


@pytest.mark.parametrize("args", [["--help"], ["--version"], ["run", "--help"], ["nonsense"]])
def test_help_imports_nothing_heavy(args):
    code = (
        "import sys, json\n"
        "from sparsevlm_trt.runtime.cli import main\n"
        f"try: main({args!r})\n"
        "except SystemExit: pass\n"
        f"print(json.dumps([name for name in {HEAVY!r} if name in sys.modules]))\n"
    )
    done = python("-c", code)
    assert json.loads(done.stdout.splitlines()[-1]) == [], done.stderr


@pytest.mark.parametrize("command", ["export", "parity", "demo"])
def test_a_deploy_box_is_told_what_to_install(command):
    code = (
        "import sys\n"
        "for name in ('torch', 'transformers', 'onnx', 'onnx_ir'): sys.modules[name] = None\n"
        "from sparsevlm_trt.runtime.cli import main\n"
        f"main([{command!r}, 'a', 'b'])\n"
    )
    done = python("-c", code)
    assert done.returncode == 1
    assert "pip install 'sparsevlm-trt[" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_mistake_of_ours_is_not_blamed_on_a_package(monkeypatch):
    monkeypatch.setitem(
        COMMANDS, "gone", CommandSpec("sparsevlm_trt.gone:gone", "Gone.", "export")
    )
    result = CliRunner().invoke(main, ["gone"])
    assert isinstance(result.exception, ModuleNotFoundError)


def test_completion_imports_no_command():
    code = "import sys; from sparsevlm_trt.runtime.cli import main; main(prog_name='sparsevlm')"
    environ = {
        "_SPARSEVLM_COMPLETE": "bash_complete",
        "COMP_WORDS": "sparsevlm ex",
        "COMP_CWORD": "1",
    }
    done = python("-X", "importtime", "-c", code, env=environ)
    assert done.stdout == "plain,export\n"
    assert "torch" not in done.stderr


def test_a_reader_that_leaves_is_no_traceback():
    code = (
        "from sparsevlm_trt.runtime.cli import main\n"
        "import sys; sys.stdin.read()\n"  # until the reader has gone
        "main(['--help'])\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdout.close()
    process.stdout = None
    _, errors = process.communicate(timeout=60)
    assert errors == ""


def test_every_command_says_what_it_does():
    for spec in registry.COMMANDS.values():
        assert spec.summary.endswith(".")
        assert len(spec.summary) < 70
