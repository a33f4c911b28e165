"""The documentation's links lead somewhere, and its commands exist."""

from __future__ import annotations

import re
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from sparsevlm_trt.runtime.cli import main

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("examples/*/*.md")])
LINK = re.compile(r"\]\(([^)#\s]+)(?:#[^)]*)?\)")
COMMAND = re.compile(r"^\s+sparsevlm ([a-z]+)((?: .*)?)$", re.MULTILINE)
TARGET = re.compile(r"\bmake ([a-z0-9-]+)")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    links = [link for link in LINK.findall(page.read_text()) if "://" not in link]
    dead = [link for link in links if not (page.parent / link).exists()]
    assert not dead


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_and_options_exist(page):
    for name, rest in COMMAND.findall(page.read_text()):
        command = main.get_command(click.Context(main), name)
        words = rest.split("#")[0].split()
        called = [name]
        if isinstance(command, click.Group) and words:
            called.append(words[0])
        shown = CliRunner().invoke(main, [*called, "--help"])
        assert shown.exit_code == 0, called
        for option in (word for word in words if word.startswith("--")):
            assert option.partition("=")[0] in shown.output, f"{called} {option}"


def test_make_targets_exist():
    targets = set(re.findall(r"^([a-z0-9-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = set(TARGET.findall((ROOT / "README.md").read_text()))
    assert named
    assert named <= targets
