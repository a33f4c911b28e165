"""A model that float16 cannot hold, exported so that it can: a scan, and `export --peaks`."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from click.testing import CliRunner
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator
from reference_runner import ReferenceRunner

from sparsevlm_trt.export import export_bundle
from sparsevlm_trt.export.checkpoint import Checkpoint
from sparsevlm_trt.export.families.registry import open_family
from sparsevlm_trt.export.float16_plan import Float16Plan, read_float16_report, unsafe_peaks
from sparsevlm_trt.export.scan_report import Peak, ScannedModel, ScanReport, read_scan
from sparsevlm_trt.export.to_onnx import onnx_from_module
from sparsevlm_trt.runtime.bundle import Bundle
from sparsevlm_trt.runtime.cli import main
from sparsevlm_trt.runtime.errors import ExportError
from sparsevlm_trt.runtime.session import Session

MODEL = ScannedModel("m", "llava", 6, 64)
PROMPT = "USER: <image> what is it? ASSISTANT:"


def picture() -> np.ndarray:
    return np.random.default_rng(0).integers(256, size=(70, 90, 3), dtype=np.uint8)


def scan_of(*peaks: Peak, residual_peak: float = 0.0, shift: int = 0) -> ScanReport:
    return ScanReport("b", MODEL, len(peaks), False, shift, residual_peak, peaks)


def test_the_scan_tells_what_helps(mended):
    scan = read_scan(mended / "peaks.json")
    assert not scan.safe
    assert scan.residual_shift == 0
    assert 3e5 < scan.residual_peak < 5e5
    helps = {(peak.graph, peak.node): peak.remedy for peak in scan.peaks if peak.share > 1}
    assert helps["stage_0", "layers.0.mlp/Mul_2"] == "scale"  # the product inside the MLP
    assert helps["stage_2", "layers.5/Add_2"] == "scale"  # the residual stream, to the end
    assert helps["vision", "tower.encoder.layers.0.mlp.fc1/MatMul"] == "island"
    # Prune steps move hidden states; what they cluster is float32 and not to be counted.
    assert {helps[key] for key in helps if key[0].startswith("prune_")} == {"scale"}
    said = (mended / "scan.txt").read_text()
    assert "sparsevlm export checkpoint OUT --dtype float16 --peaks peaks.json" in said


def test_the_export_says_and_records_what_it_did(mended):
    bundle = Bundle.open(mended / "float16")
    assert bundle.manifest.model.residual_shift == 5
    report = read_float16_report(bundle)
    assert report is not None
    assert list(report.islands) == ["vision"]
    assert "tower.encoder.layers.0.mlp.fc1/MatMul" in report.islands["vision"]
    said = (mended / "export.txt").read_text().splitlines()[-1]
    assert said == report.spell()
    assert "2^-5" in said
    assert "nodes of vision in float32" in said
    shown = CliRunner().invoke(main, ["inspect", str(bundle.path)])
    assert "float16, hidden states times 2^-5" in shown.stdout


def test_a_bundle_of_no_scan_says_nothing_new(mended):
    bundle = Bundle.open(mended / "float32")
    assert read_float16_report(bundle) is None
    assert "residual_shift" not in (bundle.path / "bundle.json").read_text()
    assert bundle.manifest.model.residual_scale == 1.0


@pytest.mark.parametrize("method", ["sparsevlm", "fastv", "uniform", "none"])
@pytest.mark.parametrize("engine", ["onnx", "onnxruntime"])
def test_the_answer_is_that_of_float32(mended, engine, method):
    def answer(dtype: str):
        if engine == "onnxruntime":
            session = Session.load(mended / dtype)
        else:
            bundle, runner = Bundle.open(mended / dtype), ReferenceRunner()
            runner.load(bundle, list(bundle.manifest.graphs))
            session = Session(bundle, runner)
        with session:
            return session.generate(
                images=[picture()], prompt=PROMPT, method=method, max_new_tokens=6, stop_tokens=()
            )

    expected, got = answer("float32"), answer("float16")
    assert got.tokens == expected.tokens
    scale = np.abs(expected.prefill_logits).max()
    # As far as half precision is off for an ordinary model.
    assert np.abs(got.prefill_logits - expected.prefill_logits).max() < 5e-3 * scale
    for one, other in zip(got.trace.stages, expected.trace.stages, strict=True):
        assert one.kept.tolist() == other.kept.tolist()
        assert one.merge_candidates.tolist() == other.merge_candidates.tolist()


def test_the_tower_alone_gives_no_number(mended):
    pixels = np.random.default_rng(1).normal(size=(1, 3, 56, 56)).astype(np.float32)

    def features(model: object) -> np.ndarray:
        with np.errstate(all="ignore"):
            return ReferenceEvaluator(model).run(None, {"pixel_values": pixels})[0]

    tower = open_family(Checkpoint(mended / "checkpoint"), torch.float16).vision
    assert tower is not None
    assert np.isnan(features(ir.to_proto(onnx_from_module(tower, 23)))).any()
    wide, exact = (
        features(str(Bundle.open(mended / dtype).graph_path("vision")))
        for dtype in ("float16", "float32")
    )
    assert wide.dtype == np.float16
    np.testing.assert_allclose(wide, exact, atol=5e-3 * np.abs(exact).max())


def test_a_scan_of_a_scaled_bundle_keeps_its_scale():
    # Scaled by 2^-5, everything is small; unscaled it is not.
    plan = Float16Plan(scan_of(residual_peak=4e5, shift=5))
    assert plan.shift == 5
    assert Float16Plan(scan_of(residual_peak=1.6e4)).shift == 0
    assert Float16Plan(scan_of(residual_peak=1.7e4)).shift == 1


def test_what_an_export_did_is_safe(mended):
    scan = read_scan(mended / "peaks.json")
    report = read_float16_report(Bundle.open(mended / "float16"))
    unsafe = unsafe_peaks(scan.peaks, None)
    assert {peak.remedy for peak in unsafe} == {"scale", "island"}
    # The same tower again, with hidden states as a scaled bundle has them.
    again = [
        dataclasses.replace(peak, magnitude=peak.magnitude / 2**5)
        if peak.remedy == "scale"
        else peak
        for peak in scan.peaks
    ]
    assert unsafe_peaks(again, report) == []


def test_islands_are_found_wherever_the_cut_is_and_in_the_tower_of_frames():
    layer = Peak("stage_2", "layers.5.mlp.gate_proj/MatMul", "t", "MatMul", 1e5, "island")
    tower = Peak("vision", "tower/Add", "t", "Add", 1e5, "island")
    plan = Float16Plan(scan_of(layer, tower))
    for graph, node in (("stage_1", layer.node), ("vision", tower.node), ("video", tower.node)):
        plan.widen(graph, model_of(node))
    report = plan.report(Path("peaks.json"))
    assert report.islands == {
        "stage_1": (layer.node, "last"),
        "vision": (tower.node, "last"),
        "video": (tower.node, "last"),
    }
    assert "2 nodes of video in float32, as tower/Add reaches 1e+05" in report.spell()


def model_of(name: str) -> ir.Model:
    """Two nodes in half precision, the first so named."""
    value = helper.make_tensor_value_info
    nodes = [
        helper.make_node("Abs", ["x"], ["made"], name=name),
        helper.make_node("Neg", ["made"], ["y"], name="last"),
    ]
    half = TensorProto.FLOAT16
    graph = helper.make_graph(nodes, "g", [value("x", half, ["n"])], [value("y", half, ["n"])])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 23)], ir_version=10)
    return ir.from_proto(onnx.shape_inference.infer_shapes(model))


def test_more_than_the_weights_can_bear_is_refused():
    with pytest.raises(ExportError, match="--dtype float32"):
        Float16Plan(scan_of(residual_peak=1e9))


def test_nodes_that_no_graph_has_are_named():
    peak = Peak("vision", "tower/Nowhere", "t", "Add", 1e5, "island")
    plan = Float16Plan(scan_of(peak))
    with pytest.raises(ExportError, match="towers has no node tower/Nowhere"):
        plan.report(Path("peaks.json"))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "No such file"),
        ("{", "Expecting property name"),
        ("{}", "missing keys"),
        ('{"peaks": 3}', "expected a list"),
    ],
)
def test_bad_reports_are_refused_in_one_sentence(tmp_path, checkpoint_of, content, said):
    peaks = tmp_path / "peaks.json"
    if content is not None:
        peaks.write_text(content)
    options = ["--peaks", str(peaks), "--dtype", "float16"]
    place = tmp_path / "out"
    result = CliRunner().invoke(
        main, ["export", str(checkpoint_of("llava-llama")), str(place), *options]
    )
    assert result.exit_code == 1
    assert said in result.stderr
    assert "sparsevlm overflow" in result.stderr
    assert not place.exists()


@pytest.mark.parametrize(("magnitude", "remedy"), [(-1.0, "scale"), (1.0, "luck")])
def test_impossible_peaks_are_refused(tmp_path, magnitude, remedy):
    scan = scan_of(Peak("stage_0", "n", "t", "Add", magnitude, remedy))
    path = tmp_path / "peaks.json"
    path.write_text(json.dumps(dataclasses.asdict(scan)))
    with pytest.raises(ExportError, match=r"peaks\[0\]"):
        read_scan(path)


def test_another_models_report_is_refused(tmp_path, mended, checkpoint_of):
    place = tmp_path / "out"
    with pytest.raises(ExportError, match="num_layers"):
        export_bundle(checkpoint_of("llava_next"), place, peaks=mended / "peaks.json")
    assert not place.exists()
