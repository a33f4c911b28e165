"""`sparsevlm bench`: what it measures, how it takes turns, and what it refuses."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner
from PIL import Image

from sparsevlm_trt.export import export_bundle
from sparsevlm_trt.runtime.bench.case import Case, Shape, read_budgets
from sparsevlm_trt.runtime.bench.contender import split_runner
from sparsevlm_trt.runtime.bench.machine import BusyMeter
from sparsevlm_trt.runtime.bench.measure import run_rounds
from sparsevlm_trt.runtime.bench.roofline import DECODE, Ceilings, chain_bounds
from sparsevlm_trt.runtime.bundle import Bundle
from sparsevlm_trt.runtime.cli import main
from sparsevlm_trt.runtime.errors import InputError
from sparsevlm_trt.runtime.flops import chain_cost


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


def test_shapes_and_budgets_are_read_as_they_are_spelled():
    assert Shape.parse("576x64") == Shape(576, 64)
    assert Shape.parse("0x5x8") == Shape(0, 5, 8)
    assert [str(Shape.parse(each)) for each in ("576x64", "2x3x4")] == ["576x64", "2x3x4"]
    assert read_budgets("none, 192,0.33") == [None, 192, 0.33]


@pytest.mark.parametrize("spelled", ["576", "576x0", "4x4x0", "axb", "-1x4", "1x2x3x4"])
def test_a_shape_that_is_none(spelled):
    with pytest.raises(InputError, match="write it like 576x64"):
        Shape.parse(spelled)


def test_the_slower_of_arithmetic_and_reading_is_the_limit(bundle_of):
    manifest = Bundle.open(bundle_of("llava-llama")).manifest
    cost = chain_cost(manifest.model, None, manifest.stages, None, num_visual=10, num_text=6)
    weights = {stage.graph: 4000 for stage in manifest.stages} | {"head": 8000}
    row = {"decode_ms": 5.0, "batch": 1}
    row |= {f"graph_ms/{stage.graph}": 2.0 for stage in manifest.stages}

    def bounds(ceilings, narrowing=1.0):
        return {b.graph: b for b in chain_bounds(row, cost, weights, ceilings, narrowing)}

    by_work = bounds(Ceilings("float32", 1e6, 1e30))
    first = cost.stages[0]
    assert by_work[first.graph].bound_ms == pytest.approx(first.prefill_flops / 1e3)
    assert by_work[first.graph].share == pytest.approx(first.prefill_flops / 2e3)
    assert "vision" not in by_work  # it was not run
    by_reading = bounds(Ceilings("bfloat16", 1e30, 1e6), narrowing=0.5)
    assert by_reading[first.graph].bound_ms == pytest.approx((4000 + first.kv_bytes) / 2e3)
    read = 8000 + sum(4000 + stage.kv_bytes for stage in cost.stages)
    assert by_reading[DECODE].num_bytes == pytest.approx(read / 2)


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


@pytest.fixture
def picture(tmp_path):
    path = tmp_path / "red.png"
    Image.new("RGB", (60, 70), "red").save(path)
    return path


def test_a_bundle_from_the_command_line(bundle_of, picture, tmp_path):
    out = tmp_path / "made" / "bench.json"
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
    assert row["cold_first_token_ms"] > row["load_ms"]
    assert report["machine"]["threads"] >= 1
    assert 0 < report["start_bytes"] <= report["peak_bytes"]
    assert "onnxruntime" in result.stdout
    bad = CliRunner().invoke(main, [*command, "--budgets", "many"])
    assert bad.exit_code != 0
    assert "budgets |" in bad.output


def test_rows_of_noise_beside_other_bundles_with_limits_and_charts(
    bundle_of, checkpoint_of, tmp_path
):
    bundle, page = bundle_of("llava-llama"), tmp_path / "bench.html"
    twin, whole = tmp_path / "twin", tmp_path / "in-one-piece"
    twin.symlink_to(bundle)
    export_bundle(checkpoint_of("llava-llama"), whole, method="none")
    prompts = ["--shape", "9x5", "--shape", "9x5x3", "--budgets", "none,0.8"]
    how = ["--rounds", "1", "--steps", "2", "--roofline", "--twice", "--json"]
    where = ["--beside", str(twin), "--beside", str(whole), "--page", str(page)]
    result = CliRunner().invoke(main, ["bench", str(bundle), *prompts, *how, *where])
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    rows = report["rows"]
    assert [(row["budget"], row["shape"]) for row in rows] == [
        (None, "9x5"),
        (None, "9x5x3"),
        (0.8, "9x5"),
        (0.8, "9x5x3"),
    ] * 2 + [(None, "9x5"), (None, "9x5x3")]  # what is in one piece is not pruned
    others = [row["contender"] for row in rows[4:]]
    assert others == ["onnxruntime twin"] * 4 + ["onnxruntime in-one-piece"] * 2
    assert rows[1]["kv_bytes"] == 3 * rows[0]["kv_bytes"]
    assert rows[2]["kv_bytes"] < rows[0]["kv_bytes"]
    assert {row["vision_ms"] for row in rows} == {0}
    cases = {bound["case"] for bound in report["roofline"]}
    assert cases == {f"onnxruntime {b} {s}" for b in ("none", 0.8) for s in ("9x5", "9x5x3")}
    assert report["ceilings"]["onnxruntime"]["flops_per_s"] > 0
    assert "onnxruntime" in report["second_session_bytes"]
    text = page.read_text()
    assert "onnxruntime in-one-piece none 9x5x3" in text
    assert "<script" not in text


def test_neither_picture_nor_shape(bundle_of):
    result = CliRunner().invoke(main, ["bench", str(bundle_of("llava-llama"))])
    assert result.exit_code != 0
    assert "--image or --shape" in result.output
