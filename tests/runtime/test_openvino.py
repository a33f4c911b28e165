"""OpenVINO against ONNX Runtime on tiny bundles, its own caches, and what it refuses."""

from __future__ import annotations

import gc
import sys
from pathlib import Path

import numpy as np
import pytest

from sparsevlm_trt.runtime import Session
from sparsevlm_trt.runtime.bundle import Bundle
from sparsevlm_trt.runtime.errors import RunnerError
from sparsevlm_trt.runtime.ort import OnnxRuntimeRunner
from sparsevlm_trt.runtime.runner import Runner, open_runner

openvino = pytest.importorskip("openvino")

from sparsevlm_trt.runtime.openvino.graph_cache import GraphCache  # noqa: E402
from sparsevlm_trt.runtime.openvino.precision import (  # noqa: E402
    bfloat16_bits,
    graph_precision,
    pick_precision,
)
from sparsevlm_trt.runtime.openvino.runner import OpenVinoRunner  # noqa: E402
from sparsevlm_trt.runtime.sharing import Shared  # noqa: E402

HAS_BF16 = "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
needs_bf16 = pytest.mark.skipif(not HAS_BF16, reason="this processor does not multiply bfloat16")
WIDTH, PREFIX, VISUAL, TEXT = 64, 3, 16, 6


def embeds(rows: int = 1, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(rows, PREFIX + VISUAL + TEXT, WIDTH)).astype(np.float32)


def answers(session, **options):
    return session.generate_from_embeds(
        embeds(options.pop("rows", 1)),
        prefix_length=PREFIX,
        num_visual=VISUAL,
        max_new_tokens=6,
        stop_tokens=(),
        **options,
    )


@pytest.fixture(scope="module")
def cache_dir(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("openvino")


@pytest.fixture(scope="module")
def sessions(bundle_of, cache_dir):
    """A session of each kind on the tiny LLaVA."""
    path = bundle_of("llava-llama")
    opened = {
        "reference": Session.load(path),
        "float32": Session.load(path, "openvino", dtype="float32", cache_dir=cache_dir),
    }
    if HAS_BF16:
        opened["bfloat16"] = Session.load(path, "openvino", cache_dir=cache_dir)
    yield opened
    for session in opened.values():
        session.close()


def test_it_is_a_runner(sessions):
    runner = sessions["float32"].runner
    assert isinstance(runner, Runner)
    assert (runner.name, runner.device, runner.precision) == ("openvino", "cpu", "f32")


@pytest.mark.parametrize("method", ["sparsevlm", "fastv", "uniform", "none"])
@pytest.mark.parametrize("rows", [1, 3])
def test_float32_equals_onnx_runtime(sessions, method, rows):
    theirs, ours = (
        answers(sessions[name], method=method, rows=rows) for name in ("reference", "float32")
    )
    for their, our in zip(theirs, ours, strict=True):
        assert our.tokens == their.tokens
        scale = np.abs(their.prefill_logits).max()
        assert np.abs(our.prefill_logits - their.prefill_logits).max() <= 1e-5 * scale
        assert np.abs(our.step_logits - their.step_logits).max() <= 1e-5 * scale
        for step, expected in zip(our.trace.stages, their.trace.stages, strict=True):
            assert step.kept.tolist() == expected.kept.tolist()
            assert set(step.merge_candidates.tolist()) == set(expected.merge_candidates.tolist())
        assert our.trace.cache_lengths == their.trace.cache_lengths
        assert our.trace.kv_bytes == their.trace.kv_bytes


def test_pictures_and_words_come_out_the_same(sessions):
    from PIL import Image

    picture = Image.new("RGB", (60, 70), "red")
    content = [{"type": "image"}, {"type": "text", "text": "what is it"}]
    messages = [{"role": "user", "content": content}]
    ours, theirs = (
        sessions[name].generate(images=[picture], messages=messages, max_new_tokens=5)
        for name in ("float32", "reference")
    )
    assert ours.tokens == theirs.tokens


@needs_bf16
def test_bfloat16_is_close_and_halves_the_cache(sessions):
    (ours,), (theirs,) = (
        answers(sessions[name], method="none", rows=1) for name in ("bfloat16", "reference")
    )
    scale = np.abs(theirs.prefill_logits).max()
    # Eight bits of mantissa through six layers.
    assert np.abs(ours.prefill_logits - theirs.prefill_logits).max() <= 0.05 * scale
    assert sum(ours.trace.kv_bytes) * 2 == sum(theirs.trace.kv_bytes)


@needs_bf16
def test_only_a_stage_is_narrow(sessions):
    kinds = {}
    for graph in ("stage_0", "rater_rows"):
        for node in sessions["bfloat16"].runner.runtime_model(graph).get_ordered_ops():
            facts = node.get_rt_info()
            kind, precision = facts["layerType"].value, facts["runtimePrecision"].value
            kinds.setdefault((graph, kind), set()).add(precision)
    assert kinds["stage_0", "FullyConnected"] == {"bf16"}
    assert kinds["rater_rows", "MatMul"] == {"f32"}
    assert kinds["rater_rows", "Softmax"] == {"f32"}


def test_the_engine_keeps_keys_and_values_itself(sessions):
    """One attention node that appends in place, not a copy of the past."""
    runner = sessions["float32"].runner
    stage = sessions["float32"].bundle.manifest.stages[0]
    kinds = [
        node.get_rt_info()["layerType"].value
        for node in runner.runtime_model(stage.graph).get_ordered_ops()
    ]
    assert kinds.count("ScaledDotProductAttention") == stage.stop - stage.first


def test_a_held_cache_equals_the_bundles_own_form(sessions):
    runner, reference = sessions["float32"].runner, sessions["reference"].runner
    manifest = sessions["float32"].bundle.manifest
    stage, model = manifest.stages[0], manifest.model
    width = model.num_kv_heads * model.head_dim
    hidden = embeds()
    names = [f"{n}.{part}" for n in range(stage.first, stage.stop) for part in ("key", "value")]
    past = {f"past_key_values.{n}": np.empty((1, 0, width), np.float32) for n in names}
    cache = runner.open_cache(stage.graph, 1, 25, np.dtype(np.float32))
    for start, stop in ((0, 20), (20, 24), (24, 25)):  # a prompt, a part of one, a token
        inputs = {
            "hidden_states": np.ascontiguousarray(hidden[:, start:stop]),
            "position_ids": np.arange(start, stop)[None],
            "past_lengths": np.array([start]),
        }
        into = {
            "last_hidden_state": np.empty((1, stop - start, WIDTH), np.float32),
            "queries": np.empty((1, stop - start, WIDTH), np.float32),
            "keys": np.empty((1, stop - start, width), np.float32),
        }
        cache.run(inputs, into)
        expected = reference.run(stage.graph, {**inputs, **past})
        plain = runner.run(stage.graph, {**inputs, **past})
        for name in into:
            np.testing.assert_allclose(into[name], expected[name], atol=2e-5)
            np.testing.assert_allclose(plain[name], expected[name], atol=2e-5)
        past = {
            name: np.concatenate([kept, expected[name.replace("past", "new", 1)]], axis=1)
            for name, kept in past.items()
        }
    assert (cache.length, cache.nbytes) == (25, sum(kept.nbytes for kept in past.values()))
    for name, kept in cache.views().items():
        np.testing.assert_allclose(kept, past.pop(name), atol=2e-5)
    assert not past
    with pytest.raises(ValueError, match="expected 25 in all at most"):
        cache.run(inputs, into)


def test_a_cache_starts_empty_after_another_prompt(sessions):
    first = answers(sessions["float32"], method="sparsevlm")
    gc.collect()  # gives the requests of the first prompt back
    again = answers(sessions["float32"], method="sparsevlm")
    assert first[0].tokens == again[0].tokens
    assert np.array_equal(first[0].step_logits, again[0].step_logits)


def test_outputs_are_written_where_asked(sessions):
    runner = sessions["float32"].runner
    buffer = np.full((3, WIDTH), 7, np.float32)
    ids = np.array([[5, 6]])
    out = runner.run("embed", {"input_ids": ids}, {"inputs_embeds": buffer[None, 1:]})
    assert np.shares_memory(out["inputs_embeds"], buffer)
    assert np.array_equal(buffer[1:], runner.run("embed", {"input_ids": ids})["inputs_embeds"][0])
    assert (buffer[0] == 7).all()
    with pytest.raises(RunnerError, match="graph embed"):
        runner.run("embed", {"input_ids": ids}, {"inputs_embeds": buffer[None]})


def test_inputs_that_do_not_fit_name_the_graph(sessions):
    runner = sessions["float32"].runner
    with pytest.raises(RunnerError, match=r"graph embed \| got no input_ids"):
        runner.run("embed", {})
    with pytest.raises(RunnerError, match=r"graph head \|.*hidden_states \[1, 3\]"):
        runner.run("head", {"hidden_states": np.ones((1, 3), np.float32)})
    with pytest.raises(RunnerError, match="expected outputs: inputs_embeds"):
        runner.run("embed", {"input_ids": np.zeros((1, 1), np.int64)}, {"x": np.ones(1)})
    with pytest.raises(RunnerError, match=r"graph nothing .* before it was loaded"):
        runner.run("nothing", {})


def test_sessions_of_one_process_share_compiled_graphs(sessions, bundle_of):
    bundle = Bundle.open(bundle_of("llava-llama"), verify=False)
    first = sessions["float32"].runner
    with OpenVinoRunner(dtype="float32") as second:
        second.load(bundle, ["head"])
        assert second._loaded["head"] is first._loaded["head"]


@needs_bf16
def test_the_second_start_reads_what_the_first_wrote(sessions, bundle_of, cache_dir, monkeypatch):
    bundle = Bundle.open(bundle_of("llava-llama"), verify=False)
    kept = sorted(entry.name for entry in cache_dir.iterdir())
    assert kept
    assert not any(name.startswith(".") for name in kept)
    monkeypatch.setattr("sparsevlm_trt.runtime.openvino.compiler._shared", Shared())
    again = OpenVinoRunner(cache_dir=cache_dir)
    monkeypatch.setattr(type(again._compiler), "_write", None)
    again.load(bundle, [stage.graph for stage in bundle.manifest.stages])
    again.close()
    assert sorted(entry.name for entry in cache_dir.iterdir()) == kept


@needs_bf16
def test_a_damaged_entry_is_made_again(bundle_of, tmp_path, monkeypatch):
    bundle = Bundle.open(bundle_of("llava-llama"), verify=False)
    for number in range(2):
        monkeypatch.setattr("sparsevlm_trt.runtime.openvino.compiler._shared", Shared())
        with OpenVinoRunner(cache_dir=tmp_path) as runner:
            runner.load(bundle, ["head"])
            shape = runner.run("head", {"hidden_states": np.ones((1, WIDTH), np.float32)})
            assert shape["logits"].shape == (1, 300)
        if number == 0:
            (entry,) = tmp_path.iterdir()
            (entry / "graph.xml").write_text("no graph")


def test_the_cache_keeps_its_bound_and_leaves_nothing_half_written(tmp_path):
    cache = GraphCache(tmp_path / "new", max_bytes=250)
    for name in "abc":
        path = cache.store(name, lambda path: path.write_bytes(b"x" * 100))
        assert path is not None
        assert path.read_bytes() == b"x" * 100
        cache.find("a")  # used last
    assert cache.find("b") is None
    assert cache.find("a")
    assert cache.find("c")

    def fail(path: Path) -> None:
        path.write_bytes(b"half")
        raise OSError("disk full")

    assert cache.store("d", fail) is None
    assert sorted(entry.name for entry in cache.folder.iterdir()) == ["a", "c"]


def test_half_precision_bundles(bundle_of, cache_dir):
    path = bundle_of("llava-llama", "float16")
    theirs = answers(Session.load(path), method="none")
    with Session.load(path, "openvino", dtype="float32", cache_dir=cache_dir) as session:
        ours = answers(session, method="none")
    scale = np.abs(theirs[0].prefill_logits).max()
    assert np.abs(ours[0].prefill_logits - theirs[0].prefill_logits).max() <= 1e-2 * scale


def test_bfloat16_rounds_to_nearest_even():
    values = np.array([1.0, 1.00390625, 1.01171875, -3.14159, 0.0, 1e30], np.float32)
    back = (bfloat16_bits(values).astype(np.uint32) << 16).view(np.float32)
    assert back.tolist()[:3] == [1.0, 1.0, 1.015625]
    assert np.abs(back / np.where(values, values, 1) - (values != 0)).max() <= 2**-8


@pytest.mark.parametrize(
    ("dtype", "device", "capabilities", "expected"),
    [
        (None, "CPU", ["FP32", "BF16"], "bf16"),
        (None, "CPU", ["FP32", "FP16"], "f32"),  # a processor stores half, and multiplies single
        (None, "GPU", ["FP32", "FP16"], "f16"),
        ("float32", "CPU", ["BF16"], "f32"),
    ],
)
def test_the_type_follows_the_device(dtype, device, capabilities, expected):
    assert pick_precision(dtype, device, capabilities) == expected


def test_graphs_that_decide_are_float32():
    decide = ("embed", "raters", "rater_rows", "rank", "gravity", "prune_sparsevlm")
    assert {graph_precision(name, "bf16") for name in decide} == {"f32"}
    assert {graph_precision(name, "bf16") for name in ("stage_0", "head", "vision")} == {"bf16"}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"device": "GPU.7"}, "got device GPU.7 .* install Intel's GPU driver"),
        ({"device": "TPU"}, "got device TPU .* name one of them"),
        ({"threads": 0}, "threads=0"),
        ({"dtype": "int4"}, "expected one of: float32, bfloat16, float16"),
    ],
)
def test_what_is_not_there_is_told(options, words):
    with pytest.raises(RunnerError, match=words):
        open_runner("openvino", **options)


def test_a_dtype_that_the_device_does_not_multiply():
    with pytest.raises(RunnerError, match="expected a type that CPU multiplies: FP32"):
        pick_precision("bfloat16", "CPU", ["FP32"])


def test_a_missing_openvino_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(RunnerError, match=r"pip install 'sparsevlm-trt\[openvino\]'"):
        open_runner("openvino")


def test_a_broken_graph_is_named(tmp_path, make_model):
    from sparsevlm_trt.runtime.graph_spec import GraphSpec

    manifest, _ = make_model()
    (tmp_path / "broken.onnx").write_bytes(b"not a graph")
    manifest.graphs["broken"] = GraphSpec("broken.onnx", "0" * 64, 0, (), (), ())
    with OpenVinoRunner(use_cache=False) as runner, pytest.raises(RunnerError, match="broken"):
        runner.load(Bundle(tmp_path, manifest), ["broken"])


def test_the_reference_is_another_engine(sessions):
    assert isinstance(sessions["reference"].runner, OnnxRuntimeRunner)
