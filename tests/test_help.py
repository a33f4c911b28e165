"""docs/cli.md is what the commands' own help says."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

PAGE = Path(__file__).parents[1] / "docs/cli.md"
REGENERATE = "python -m sparsevlm_trt.runtime.cli help-page > docs/cli.md"


def test_the_page_is_fresh():
    # A process of its own: click remembers the help option of a command that a test called alone.
    command = [sys.executable, "-m", "sparsevlm_trt.runtime.cli", "help-page"]
    result = subprocess.run(command, check=False, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    written = PAGE.read_text(encoding="utf-8") if PAGE.exists() else ""
    assert written == result.stdout, f"docs/cli.md is stale; run: {REGENERATE}"


def test_the_page_says_how_it_is_made():
    assert REGENERATE in PAGE.read_text(encoding="utf-8")
