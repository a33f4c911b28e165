"""Quantised bundles answer as their source does, in fewer bytes and whole numbers."""

from __future__ import annotations

from contextlib import closing

import numpy as np
import onnx
import onnxruntime
import pytest

from sparsevlm_trt.calibration import quantize
from sparsevlm_trt.calibration.quantize import quantize_bundle
from sparsevlm_trt.calibration.samples import read_samples
from sparsevlm_trt.calibration.schemes import SCHEMES, find_scheme
from sparsevlm_trt.runtime import Session
from sparsevlm_trt.runtime.bundle import Bundle
from sparsevlm_trt.runtime.errors import InputError
from sparsevlm_trt.runtime.evaluation.questions import read_questions
from sparsevlm_trt.runtime.memory import Memory
from sparsevlm_trt.runtime.runner import open_runner

# Of the energy of the logits; random weights are harder to round than trained ones.
MOST_NOISE = {"int8": 0.02, "int8-weight": 0.005, "int4-weight": 0.15, "fp8": 0.06}


def logits_of(path, questions, runner="onnxruntime", **options) -> np.ndarray:
    with Session.load(path, runner, verify=False, **options) as session:
        found = []
        for question in read_questions(questions, limit=4).questions:
            content = [{"type": "image"}, {"type": "text", "text": question.text}]
            messages = [{"role": "user", "content": content}]
            for method in ("none", "sparsevlm"):
                result = session.generate(
                    images=[question.image], messages=messages, method=method, max_new_tokens=3
                )
                found += [result.prefill_logits]
    return np.stack(found)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_logits_stay_near(bundle_of, quantized, questions, scheme):
    expected = logits_of(bundle_of("llava-llama"), questions)
    found = logits_of(quantized(scheme).path, questions)
    noise = np.square(found - expected).sum() / np.square(expected).sum()
    assert 0 < noise < MOST_NOISE[scheme]


@pytest.mark.parametrize("scheme", ["int8", "int8-weight", "int4-weight"])
def test_openvino_reads_quantised_bundles_as_well(bundle_of, quantized, questions, scheme):
    pytest.importorskip("openvino", reason="the extra openvino is not installed")
    expected = logits_of(bundle_of("llava-llama"), questions)
    engine = {"runner": "openvino", "dtype": "float32"}
    found = logits_of(quantized(scheme).path, questions, **engine)
    noise = np.square(found - expected).sum() / np.square(expected).sum()
    assert 0 < noise < MOST_NOISE[scheme]


def test_openvino_reads_every_row_of_a_table_of_bytes(quantized):
    pytest.importorskip("openvino", reason="the extra openvino is not installed")
    bundle = quantized("int8")
    ids = np.arange(bundle.manifest.model.vocab_size)[None]
    rows = []
    for name in ("onnxruntime", "openvino"):
        with closing(open_runner(name)) as runner:
            runner.load(bundle, ["embed"])
            rows.append(np.array(runner.run("embed", {"input_ids": ids})["inputs_embeds"]))
    np.testing.assert_array_equal(*rows)


def test_a_bundle_that_was_made_to_hold_in_float16(mended, questions, tmp_path):
    # Scaled hidden states, and islands whose weights stay what they are.
    expected = logits_of(mended / "float32", questions)
    source, out = Bundle.open(mended / "float16"), tmp_path / "bundle"
    quantize_bundle(source, out, find_scheme("int8"), read_samples(questions))
    assert Bundle.open(out).manifest.model.residual_shift == 5
    noise = np.square(logits_of(out, questions) - expected).sum() / np.square(expected).sum()
    assert 0 < noise < MOST_NOISE["int8"]


@pytest.mark.parametrize("scheme", SCHEMES)
def test_graphs_are_standard_and_symmetric(quantized, scheme):
    bundle = quantized(scheme)
    for name in bundle.manifest.graphs:
        path = bundle.graph_path(name)
        onnx.checker.check_model(str(path))
        model = onnx.load(path)
        assert not any(node.domain for node in model.graph.node)
        values = {each.name: each for each in model.graph.initializer}
        for node in model.graph.node:
            if node.op_type in ("QuantizeLinear", "DequantizeLinear") and len(node.input) > 2:
                zero = onnx.numpy_helper.to_array(values[node.input[2]])
                assert not zero.astype(np.float32).any()


def test_scores_and_selection_stay_as_they_were(bundle_of, quantized):
    source = Bundle.open(bundle_of("llava-llama"))
    made = quantized("int8")
    for name, spec in source.manifest.graphs.items():
        if name.startswith(("prune_", "raters")):
            assert made.manifest.graphs[name].sha256 == spec.sha256


def test_onnxruntime_computes_in_whole_numbers(quantized, tmp_path):
    bundle = quantized("int8")
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    options.use_per_session_threads = False
    options.log_severity_level = 3
    onnxruntime.InferenceSession(str(bundle.graph_path("stage_0")), options)
    kinds = [n.op_type for n in onnx.load(tmp_path / "optimized.onnx").graph.node]
    source = [n.op_type for n in onnx.load(bundle.graph_path("stage_0")).graph.node]
    num_linears = source.count("DequantizeLinear") - source.count("QuantizeLinear")
    assert kinds.count("MatMulIntegerToFloat") == num_linears
    assert "DequantizeLinear" not in kinds


def test_the_same_data_makes_the_same_bundle(bundle_of, quantized, questions, tmp_path):
    source = Bundle.open(bundle_of("llava-llama"))
    again = quantize_bundle(
        source, tmp_path / "again", find_scheme("int8"), read_samples(questions)
    )
    first = quantized("int8").path / "bundle.json"
    assert (again / "bundle.json").read_bytes() == first.read_bytes()


def test_a_quantised_bundle_is_not_quantised_again(quantized, questions, tmp_path):
    with pytest.raises(InputError, match="already"):
        quantize_bundle(
            quantized("int8"), tmp_path / "twice", find_scheme("int8"), read_samples(questions)
        )
    assert not (tmp_path / "twice").exists()


def test_moments_that_cannot_fit_are_refused_before_anything_is_asked(
    bundle_of, questions, tmp_path, monkeypatch
):
    poor = Memory(total_bytes=10**9, available_bytes=1000, limit_bytes=None)
    monkeypatch.setattr(quantize, "read_memory", lambda: poor)
    source, samples = Bundle.open(bundle_of()), read_samples(questions)
    with pytest.raises(InputError, match=r"second moments .* 1.* kB at most.* --rounding"):
        quantize_bundle(source, tmp_path / "out", find_scheme("int8"), samples)
    assert not (tmp_path / "out").exists()


def test_rounding_to_the_nearest_needs_no_moments():
    assert find_scheme("int8").compensates
    assert not find_scheme("int8", to_nearest=True).compensates
