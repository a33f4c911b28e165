from pathlib import Path

import pytest

from sparsevlm_trt.export.parity.tolerances import TOLERANCES, markdown_table, tolerance

PAGE = Path(__file__).parents[2] / "docs" / "parity.md"


def test_the_page_shows_the_table_as_it_is():
    assert markdown_table() in PAGE.read_text(encoding="utf-8"), (
        "docs/parity.md is stale: put in its place what this prints: python -c 'from "
        "sparsevlm_trt.export.parity.tolerances import markdown_table; print(markdown_table())'"
    )


def test_every_quantity_has_a_tolerance_for_every_dtype():
    pairs = [(row.quantity, row.dtype) for row in TOLERANCES]
    quantities = {row.quantity for row in TOLERANCES}
    assert sorted(pairs) == sorted((q, d) for q in quantities for d in ("float32", "float16"))


@pytest.mark.parametrize("row", TOLERANCES, ids=lambda row: f"{row.quantity}-{row.dtype}")
def test_every_tolerance_says_why(row):
    assert len(row.reason) > 40
    assert row.scale


def test_the_larger_of_absolute_and_relative_is_allowed():
    row = tolerance("logits", "float32")
    assert row.allowed(0.0) == row.atol
    assert row.allowed(1000.0) == row.rtol * 1000
