"""`calibrate`: the command line, the verdict and the report."""

from __future__ import annotations

import json

from click.testing import CliRunner

from sparsevlm_trt.calibration.cli import calibrate
from sparsevlm_trt.runtime.bundle import Bundle


def check(quantized, bundle_of, questions, out, *options):
    command = ["check", str(quantized("int8-weight").path), bundle_of("llava-llama")]
    command += ["--data", str(questions), "--limit", "2", "--budgets", "none", "--quiet"]
    command += ["--max-new-tokens", "2", "--out", str(out), *options]
    return CliRunner().invoke(calibrate, [str(part) for part in command])


def test_a_good_bundle_is_called_good_and_the_report_says_why(
    quantized, bundle_of, questions, tmp_path
):
    options = ("--min-agreement", "0", "--max-drop", "1")
    result = check(quantized, bundle_of, questions, tmp_path, *options)
    assert result.exit_code == 0, result.output
    assert "good: all thresholds are met" in result.output
    report = json.loads((tmp_path / "quality.json").read_text())
    assert report["problems"] == []
    assert {graph["name"] for graph in report["graphs"]} == {
        "vision",
        "embed",
        "stage_0",
        "stage_1",
        "stage_2",
        "head",
    }
    assert all(graph["sqnr_db"] > 20 for graph in report["graphs"])
    assert "<h2>Answers</h2>" in (tmp_path / "report.html").read_text()


def test_a_bundle_below_the_thresholds_is_refused(quantized, bundle_of, questions, tmp_path):
    swapped = ["check", str(bundle_of("llava-llama")), str(quantized("int8-weight").path)]
    result = CliRunner().invoke(calibrate, [*swapped, "--data", str(questions), "--quiet"])
    assert result.exit_code == 1
    assert "no quantised form" in str(result.exception)


def test_quantize_says_what_it_made(bundle_of, questions, tmp_path):
    out = tmp_path / "made"
    command = ["quantize", str(bundle_of("llava-llama")), str(out), "--data", str(questions)]
    command += ["--scheme", "int8-weight", "--limit", "2", "--keep", "1", "--quiet", "--json"]
    result = CliRunner().invoke(calibrate, command)
    assert result.exit_code == 0, result.output
    said = json.loads(result.stdout.splitlines()[-1])
    assert len(said["quantization"]["kept_sites"]) == 1
    assert "2 different images" in said["warnings"][0]
    assert Bundle.open(out).manifest.quantization.scheme == "int8-weight"
