"""docs/cli.md is what the commands' own help says."""

from __future__ import annotations

from pathlib import Path

from click.testing import CliRunner

from sparsevlm_trt.runtime.cli import main

PAGE = Path(__file__).parents[1] / "docs/cli.md"
REGENERATE = "python -m sparsevlm_trt.runtime.cli help-page > docs/cli.md"


def test_the_page_is_fresh():
    result = CliRunner().invoke(main, ["help-page"])
    assert result.exit_code == 0, result.output
    written = PAGE.read_text(encoding="utf-8") if PAGE.exists() else ""
    assert written == result.stdout, f"docs/cli.md is stale; run: {REGENERATE}"


def test_the_page_says_how_it_is_made():
    assert REGENERATE in PAGE.read_text(encoding="utf-8")
