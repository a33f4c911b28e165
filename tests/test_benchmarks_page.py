"""The tables of docs/benchmarks.md and others are what the committed results say."""

from __future__ import annotations

import importlib.util
from pathlib import Path

ROOT = Path(__file__).parents[1]


def load_document():
    spec = importlib.util.spec_from_file_location("document", ROOT / "benchmarks/document.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_tables_are_those_of_the_results():
    document = load_document()
    for path in document.PAGES:
        page = path.read_text(encoding="utf-8")
        assert "<!-- end -->" in page
        assert document.written(page) == page, "run benchmarks/document.py"


def test_a_table_edited_by_hand_is_found():
    document = load_document()
    page = document.PAGE.read_text(encoding="utf-8")
    assert "| 192 |" in page
    assert document.written(page.replace("| 192 |", "| 193 |", 1)) == page
