"""Progress on a terminal, in a log, and not at all; JSON on one line."""

from __future__ import annotations

import io
import json
import sys

import pytest

from sparsevlm_trt.runtime.console import Progress, print_json


class Terminal(io.StringIO):
    def isatty(self):
        return True


def work(progress, error=None):
    with progress:
        for number, name in enumerate(["vision", "stage_0"]):
            progress(name, number, 2)
        if error is not None:
            raise error


def test_a_log_gets_a_line_for_each_step(capsys):
    work(Progress("exporting"))
    captured = capsys.readouterr()
    assert captured.err == "exporting 1/2: vision\nexporting 2/2: stage_0\n"
    assert captured.out == ""


def test_quiet_is_quiet(capsys, monkeypatch):
    work(Progress("exporting", quiet=True))
    assert capsys.readouterr().err == ""


def test_a_terminal_gets_a_bar_that_names_the_step(monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    work(Progress("exporting"))
    drawn = terminal.getvalue()
    assert "0/2" in drawn
    assert "stage_0" in drawn
    assert "2/2" in drawn
    assert drawn.count("\n") == 1


def test_an_error_leaves_the_bar_where_it_was(monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    with pytest.raises(ValueError, match="full"):
        work(Progress("exporting"), ValueError("full"))
    assert "2/2" not in terminal.getvalue()
    assert terminal.getvalue().endswith("\x1b[?25h\n")  # the cursor shows again


def test_no_step_no_output(capsys):
    with Progress("exporting"):
        pass
    assert capsys.readouterr().err == ""


def test_json(capsys):
    print_json({"a": [1, "é"]})
    line = capsys.readouterr().out
    assert json.loads(line) == {"a": [1, "é"]}
    assert line.count("\n") == 1
    assert line.isascii()
