"""Tables, units and plain values."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from sparsevlm_trt.runtime.plain_json import plain_from
from sparsevlm_trt.runtime.table import format_fields, format_table
from sparsevlm_trt.runtime.units import spell_bytes, spell_count, spell_cut, spell_ms


def test_numbers_stand_to_the_right_and_words_to_the_left():
    table = format_table(["name", "size"], [("a", "1 MB"), ("long name", "20 MB"), ("c", None)])
    assert table.splitlines() == [
        "name        size",
        "---------  -----",
        "a           1 MB",
        "long name  20 MB",
        "c              -",
    ]


def test_a_table_without_rows_is_its_header():
    assert format_table(["a", "b"], []).splitlines() == ["a  b", "-  -"]


def test_fields():
    assert format_fields([("a", 1), ("long", "x"), ("", "more")]) == "a     1\nlong  x\n      more"


@pytest.mark.parametrize(
    ("count", "spelled"),
    [(0, "0 B"), (999, "999 B"), (1000, "1 kB"), (302_400_000, "302 MB"), (4.62e12, "4.62 TB")],
)
def test_bytes(count, spelled):
    assert spell_bytes(count) == spelled


def test_numbers_never_reach_a_thousand():
    assert spell_count(999_999, "FLOP") == "1 MFLOP"
    assert spell_count(999_400, "FLOP") == "999 kFLOP"


@pytest.mark.parametrize(
    ("ms", "spelled"),
    [(0.04, "0.0 ms"), (3.21, "3.2 ms"), (99.96, "100 ms"), (412.4, "412 ms"), (12345, "12.3 s")],
)
def test_times(ms, spelled):
    assert spell_ms(ms) == spelled


def test_cuts():
    assert (spell_cut(0.538), spell_cut(0.0)) == ("-53.8 %", "0 %")


@dataclass(frozen=True)
class Thing:
    scores: np.ndarray
    path: Path


def test_plain_values():
    thing = Thing(np.array([1.5, np.nan], np.float32), Path("a/b"))
    found = plain_from({"thing": thing, 2: (np.int64(3), float("inf"), None, True)})
    assert found == {"thing": {"scores": [1.5, None], "path": "a/b"}, "2": [3, None, None, True]}
    json.dumps(found, allow_nan=False)


def test_what_is_not_plain_is_refused():
    with pytest.raises(TypeError, match="object"):
        plain_from([object()])
