"""`sparsevlm bench`: what it measures, how it takes turns, and what it refuses."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner
from PIL import Image

from sparsevlm_trt.runtime.bench.machine import BusyMeter
from sparsevlm_trt.runtime.bench.measure import Case, run_rounds, split_runner
from sparsevlm_trt.runtime.cli import main
from sparsevlm_trt.runtime.errors import InputError


class Clockwork:
    """A contender whose times are known."""

    load_ms, load_bytes = 5.0, None

    def __init__(self, calls, times):
        self.calls, self.times = calls, iter(times)

    def sample(self, case, num_steps):
        self.calls.append(case.contender)
        return {"language_ms": next(self.times), "decode_ms": float(num_steps)}


def test_rounds_take_turns_and_the_first_is_not_counted():
    calls = []
    contenders = {
        "a": Clockwork(calls, [900.0, 1.0, 3.0, 2.0]),
        "b": Clockwork(calls, [900.0, 4.0, 4.0, 4.0]),
    }
    cases = [Case("a", "none", None), Case("b", "sparsevlm", 192)]
    ticks = []
    rows = run_rounds(
        contenders, cases, rounds=3, num_steps=7, progress=lambda *told: ticks.append(told)
    )
    assert calls == ["a", "b"] * 4
    assert [number for _, number, _ in ticks] == list(range(8))
    assert ticks[-1] == ("b 192", 7, 8)
    assert [row["language_ms"] for row in rows] == [2.0, 4.0]
    assert [row["language_ms_spread"] for row in rows] == [0.25, 0.0]
    assert [(row["decode_ms"], row["budget"]) for row in rows] == [(7.0, None), (7.0, 192)]


def test_a_type_belongs_to_openvino():
    assert split_runner("openvino:float32") == ("openvino", {"dtype": "float32"})
    assert split_runner("onnxruntime") == ("onnxruntime", {})
    with pytest.raises(InputError, match="onnxruntime:float32"):
        split_runner("onnxruntime:float32")


def test_what_others_take_is_a_share():
    others = BusyMeter().others()
    assert others is None or 0 <= others <= 1


def test_a_machine_that_does_not_tell(tmp_path):
    assert BusyMeter(tmp_path / "no-stat").others() is None


def test_a_bundle_from_the_command_line(bundle_of, tmp_path):
    picture, out = tmp_path / "red.png", tmp_path / "made" / "bench.json"
    Image.new("RGB", (60, 70), "red").save(picture)
    command = ["bench", str(bundle_of("llava-llama")), "--image", str(picture)]
    options = ["--budgets", "none", "--rounds", "1", "--steps", "2", "--out", str(out)]
    result = CliRunner().invoke(main, [*command, *options])
    assert result.exit_code == 0, result.output
    report = json.loads(out.read_text())
    (row,) = report["rows"]
    assert row["language_ms"] > 0
    assert row["vision_ms"] > 0
    assert row["stage_ms"] <= row["language_ms"]
    assert row["kv_bytes"] > 0
    assert report["machine"]["threads"] >= 1
    assert "onnxruntime" in result.stdout
    bad = CliRunner().invoke(main, [*command, "--budgets", "many"])
    assert bad.exit_code != 0
    assert "budgets |" in bad.output
