"""What an export makes: graphs of the contract, weights as stored, the same bytes each time."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from safetensors.torch import load_file
from transformers import LlamaConfig, LlamaForCausalLM

from sparsevlm_ops.methods import METHODS
from sparsevlm_trt.export import export_bundle
from sparsevlm_trt.export.checkpoint import Checkpoint
from sparsevlm_trt.export.language_graphs import LanguageGraphs
from sparsevlm_trt.export.to_onnx import onnx_from_module
from sparsevlm_trt.runtime.bundle import Bundle
from sparsevlm_trt.runtime.errors import ExportError
from sparsevlm_trt.runtime.graph_spec import StageSpec
from sparsevlm_trt.runtime.manifest import Manifest
from sparsevlm_trt.runtime.session import Session

BUNDLES = [("llava-llama", "float32"), ("llava-llama", "float16"), ("llava-mistral", "float16")]
SCHEDULE = {0: 5}
PRUNING = tuple(name for name, method in METHODS.items() if method.prunes)

Tensors = dict[str, tuple[str, tuple[int | str, ...]]]


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bare language model of two layers: the least that can be cut."""
    folder = tmp_path_factory.mktemp("small") / "checkpoint"
    torch.manual_seed(3)
    config = {
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": 300,
    }
    model = LlamaForCausalLM(LlamaConfig(**config))
    for parameter in model.parameters():
        parameter.data.mul_(4.0 if parameter.dim() > 1 else 1.0)
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def exported(small: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], Path]:
    made: dict[int, Path] = {}

    def make(opset: int) -> Path:
        if opset not in made:
            out = tmp_path_factory.mktemp("exported") / f"opset{opset}"
            made[opset] = export_bundle(small, out, schedule=SCHEDULE, opset=opset)
        return made[opset]

    return make


def contract(manifest: Manifest) -> dict[str, tuple[Tensors, Tensors]]:
    """Inputs and outputs of every graph, from the manifest's sizes and stages alone."""
    model, vision = manifest.model, manifest.vision
    kind, width, heads = model.dtype, model.hidden_size, model.num_heads
    hidden = (kind, ("batch", "seq_len", width))
    positions = ("int64", ("batch", "seq_len"))
    graphs: dict[str, tuple[Tensors, Tensors]] = {
        "embed": ({"input_ids": positions}, {"inputs_embeds": hidden}),
        "raters": (
            {
                "visual_embeds": (kind, ("batch", "num_visual", width)),
                "text_embeds": (kind, ("batch", "num_text", width)),
            },
            {
                "rater_scores": ("float32", ("batch", "num_text")),
                "rater_mask": ("bool", ("batch", "num_text")),
            },
        ),
        "head": (
            {"hidden_states": (kind, ("batch", width))},
            {"logits": ("float32", ("batch", model.vocab_size))},
        ),
    }
    attention = ("float32", ("batch", "num_heads", "num_raters", "num_visual"))
    votes = ("float32", ("batch", "num_raters"))
    graphs["rank"] = (
        {"rater_attention": attention, "rater_weights": votes},
        {"rank": ("int64", ("batch",))},
    )
    graphs["gravity"] = (
        {
            "rater_attention": attention,
            "rater_weights": votes,
            "rater_positions": ("int64", ("batch", "num_raters")),
            "visual_positions": ("int64", ("batch", "num_visual")),
            "num_heads": ("int64", (1,)),
        },
        {"corrected_attention": ("float32", ("batch", 1, 1, "num_visual"))},
    )
    for method in PRUNING:
        graphs[f"prune_{method}"] = (
            {
                "hidden_states": hidden,
                "position_ids": positions,
                "rater_attention": (
                    "float32",
                    ("batch", "num_heads", "num_raters", "num_visual"),
                ),
                "rater_weights": ("float32", ("batch", "num_raters")),
                "prefix_length": ("int64", (1,)),
                "num_kept": ("int64", (1,)),
                "original_positions": ("int64", (1,)),
            },
            {
                "next_hidden_states": (kind, ("batch", "next_seq_len", width)),
                "next_position_ids": ("int64", ("batch", "next_seq_len")),
                "visual_scores": ("float32", ("batch", "num_visual")),
                "kept_index": ("int64", ("batch", "num_kept")),
                "merge_candidates": ("int64", ("batch", "num_candidates")),
            },
        )
    if vision is not None:
        graphs["vision"] = (
            {"pixel_values": ("float32", ("num_images", 3, *vision.image_size))},
            {"image_features": (kind, ("num_images", vision.num_visual, width))},
        )
    kv_size = model.num_kv_heads * model.head_dim
    held = (kind, ("batch", "seq_len", kv_size))
    asked = (kind, ("batch", "seq_len", heads * model.head_dim))
    graphs["rater_rows"] = (
        {
            "queries": asked,
            "keys": held,
            "rater_index": ("int64", ("batch", "num_raters")),
            "visual_index": ("int64", ("batch", "num_visual")),
        },
        {"rater_attention": ("float32", ("batch", heads, "num_raters", "num_visual"))},
    )
    for stage in manifest.stages:
        caches = [
            f"{i}.{part}" for i in range(stage.first, stage.stop) for part in ("key", "value")
        ]
        inputs: Tensors = {
            "hidden_states": hidden,
            "position_ids": positions,
            "past_lengths": ("int64", ("batch",)),
        }
        inputs |= {f"past_key_values.{c}": (kind, ("batch", "past_len", kv_size)) for c in caches}
        outputs: Tensors = {"last_hidden_state": hidden}
        if stage.stop < model.num_layers:
            outputs["queries"] = asked
            outputs["keys"] = held
        outputs |= {f"new_key_values.{c}": held for c in caches}
        graphs[stage.graph] = (inputs, outputs)
    return graphs


@pytest.mark.parametrize(("kind", "dtype"), BUNDLES)
def test_graphs_are_those_of_the_contract(bundle_of, kind, dtype):
    manifest = Bundle.open(bundle_of(kind, dtype)).manifest
    expected = contract(manifest)
    assert set(manifest.graphs) == set(expected)
    for name, spec in manifest.graphs.items():
        inputs, outputs = expected[name]
        assert {t.name: (t.dtype, t.shape) for t in spec.inputs} == inputs, name
        assert {t.name: (t.dtype, t.shape) for t in spec.outputs} == outputs, name


@pytest.mark.parametrize(("kind", "dtype"), BUNDLES)
def test_files_say_what_the_manifest_says(bundle_of, kind, dtype):
    bundle = Bundle.open(bundle_of(kind, dtype))
    for name, spec in bundle.manifest.graphs.items():
        model = ir.load(bundle.graph_path(name))
        for told, values in (
            (spec.inputs, model.graph.inputs),
            (spec.outputs, model.graph.outputs),
        ):
            seen = [
                (
                    v.name,
                    str(v.dtype.numpy()),
                    tuple(d if isinstance(d, int) else d.value for d in v.shape),
                )
                for v in values
            ]
            assert seen == [(t.name, t.dtype, t.shape) for t in told]
        outside = {
            f"graphs/{v.const_value.location}"
            for v in model.graph.initializers.values()
            if isinstance(v.const_value, ir.ExternalTensor)
        }
        assert outside == set(spec.weights)


@pytest.mark.parametrize(("kind", "dtype"), BUNDLES)
def test_graphs_are_valid_standard_onnx(bundle_of, kind, dtype):
    bundle = Bundle.open(bundle_of(kind, dtype))
    for name in bundle.manifest.graphs:
        path = bundle.graph_path(name)
        onnx.checker.check_model(path, full_check=True)
        model = onnx.load(path, load_external_data=False)
        assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", 23)]
        assert not model.functions
        assert {node.domain for node in model.graph.node} <= {"", "ai.onnx"}


@pytest.mark.parametrize(("kind", "dtype"), BUNDLES)
def test_nodes_have_names_of_their_own_that_tell_the_module(bundle_of, kind, dtype):
    bundle = Bundle.open(bundle_of(kind, dtype))
    for name in bundle.manifest.graphs:
        graph = onnx.load(bundle.graph_path(name), load_external_data=False).graph
        names = [node.name for node in graph.node]
        assert len(names) == len(set(names))
        assert all(names)
    for stage in bundle.manifest.stages:
        graph = onnx.load(bundle.graph_path(stage.graph), load_external_data=False).graph
        names = {node.name for node in graph.node}
        for layer in range(stage.first, stage.stop):
            assert f"layers.{layer}.self_attn/Attention" in names
            assert f"layers.{layer}.mlp.down_proj/MatMul" in names


@pytest.mark.parametrize(("kind", "dtype"), BUNDLES)
def test_files_tell_nothing_of_the_machine(bundle_of, kind, dtype):
    path = bundle_of(kind, dtype)
    secrets = {str(Path.cwd()), str(Path.home()), sys.prefix, str(path.parent), "site-packages"}
    secrets |= {"Traceback", "stack_trace", ".py", "pkg.torch"}
    for file in [*path.rglob("*.onnx"), path / "bundle.json"]:
        content = file.read_bytes()
        assert [s for s in secrets if s.encode() in content] == [], file.name


def test_stages_hold_one_attention_a_layer_and_one_output_each(bundle_of):
    bundle = Bundle.open(bundle_of("llava-llama", "float16"))
    for stage in bundle.manifest.stages:
        nodes = onnx.load(bundle.graph_path(stage.graph), load_external_data=False).graph.node
        kinds = [node.op_type for node in nodes]
        num_layers = stage.stop - stage.first
        assert kinds.count("Attention") == num_layers
        assert kinds.count("RMSNormalization") == 2 * num_layers
        assert kinds.count("RotaryEmbedding") == 2 * num_layers
        assert kinds.count("MatMul") <= 5 * num_layers + 2  # projections, and the raters' rows
        assert all(len(n.output) == 1 for n in nodes if n.op_type == "Attention")
        # No weight is turned at run time.
        names = {i.name for i in onnx.load(bundle.graph_path(stage.graph)).graph.initializer}
        assert not [n for n in nodes if n.op_type == "Transpose" and n.input[0] in names]


def stored_of(checkpoint: Path) -> dict[str, torch.Tensor]:
    return load_file(checkpoint / "model.safetensors")


@pytest.mark.parametrize(("kind", "dtype"), BUNDLES)
def test_weights_are_those_of_the_checkpoint(bundle_of, checkpoint_of, kind, dtype):
    stored = stored_of(checkpoint_of(kind))
    bundle = Bundle.open(bundle_of(kind, dtype))
    expected = {
        name.split("language_model.")[-1].removeprefix("model."): value.numpy().astype(dtype)
        for name, value in stored.items()
        if "vision" not in name and "projector" not in name
    }
    for name in [name for name in expected if "q_proj" in name]:  # stored apart, one product here
        parts = [expected.pop(name.replace("q_proj", f"{part}_proj")) for part in "qkv"]
        expected[name.replace("q_proj", "qkv_proj")] = np.concatenate(parts)
    seen = set()
    for stage in bundle.manifest.stages:
        for name, value in ir.load(bundle.graph_path(stage.graph)).graph.initializers.items():
            if not name.startswith("layers."):
                continue  # a constant of ours
            theirs = expected[name]
            ours = value.const_value.numpy()
            is_projection = name.endswith("proj.weight")
            np.testing.assert_array_equal(ours, theirs.T if is_projection else theirs, name)
            seen.add(name)
    assert seen == {name for name in expected if name.startswith("layers.")}
    embed = ir.load(bundle.graph_path("embed")).graph.initializers["weight"].const_value.numpy()
    np.testing.assert_array_equal(embed, expected["embed_tokens.weight"])
    head = ir.load(bundle.graph_path("head")).graph.initializers
    np.testing.assert_array_equal(head["norm.weight"].const_value.numpy(), expected["norm.weight"])
    theirs = expected.get("lm_head.weight", expected["embed_tokens.weight"])
    np.testing.assert_array_equal(head["weight"].const_value.numpy(), theirs)


def test_a_tied_head_reads_the_file_of_the_embedding(bundle_of):
    tied = Bundle.open(bundle_of("llava-mistral")).manifest
    untied = Bundle.open(bundle_of("llava-llama")).manifest
    assert tied.model.tied_head
    assert tied.graphs["embed"].weights == tied.graphs["head"].weights
    assert len(tied.graphs["embed"].weights) == 1
    assert not untied.model.tied_head
    assert not set(untied.graphs["embed"].weights) & set(untied.graphs["head"].weights)


def test_the_manifest_describes_the_model(bundle_of, checkpoint_of):
    manifest = Bundle.open(bundle_of("llava-llama")).manifest
    assert manifest.model.source == checkpoint_of("llava-llama").name
    assert (manifest.model.model_type, manifest.model.text_model_type) == ("llava", "llama")
    assert (manifest.model.num_heads, manifest.model.num_kv_heads) == (4, 2)
    assert manifest.plan.boundaries == (1, 3)
    assert manifest.plan.schedule == {1: 9, 3: 5}
    assert manifest.plan.methods == (*PRUNING, "none")
    assert [(s.first, s.stop) for s in manifest.stages] == [(0, 2), (2, 4), (4, 6)]
    assert manifest.vision is not None
    assert (manifest.vision.num_visual, manifest.vision.grid) == (16, (4, 4))
    assert "torch" in manifest.tools


def files_of(bundle: Path) -> dict[str, bytes]:
    return {
        path.relative_to(bundle).as_posix(): path.read_bytes()
        for path in sorted(bundle.rglob("*"))
        if path.is_file()
    }


def test_another_process_writes_the_same_bytes(exported, small, tmp_path):
    first = files_of(exported(23))
    code = (
        "import sys; from sparsevlm_trt.export import export_bundle; "
        f"export_bundle(sys.argv[1], sys.argv[2], schedule={SCHEDULE})"
    )
    again = tmp_path / "elsewhere" / "again"
    again.parent.mkdir()
    # Sets iterate in another order there.
    environment = os.environ | {"PYTHONHASHSEED": "12345"}
    subprocess.run([sys.executable, "-c", code, small, again], env=environment, check=True)
    second = files_of(again)
    assert first.keys() == second.keys()
    assert [name for name in first if first[name] != second[name]] == []


def test_opset_24_computes_the_same(exported):
    rng = np.random.default_rng(5)
    embeds = rng.standard_normal((30, 64)).astype(np.float32)
    results = []
    for opset in (23, 24):
        bundle = Bundle.open(exported(opset))
        model = onnx.load(bundle.graph_path("stage_0"), load_external_data=False)
        assert [entry.version for entry in model.opset_import] == [opset]
        with Session.load(exported(opset)) as session:
            results.append(
                session.generate_from_embeds(
                    embeds, prefix_length=4, num_visual=20, max_new_tokens=4, stop_tokens=()
                )
            )
    assert results[0].tokens == results[1].tokens
    np.testing.assert_array_equal(results[0].trace.stages[0].kept, results[1].trace.stages[0].kept)
    np.testing.assert_allclose(results[0].step_logits, results[1].step_logits, atol=1e-5)


def test_progress_names_each_graph_before_it_is_made(small, tmp_path):
    told = []
    export_bundle(
        small,
        tmp_path / "bundle",
        method="none",
        progress=lambda *step: told.append(step),
    )
    names = ["embed", "raters", "stage_0", "head"]
    assert told == [(name, number, len(names)) for number, name in enumerate(names)]
    manifest = Bundle.open(tmp_path / "bundle").manifest
    assert (manifest.plan.methods, manifest.plan.budget) == (("none",), None)


def test_no_weight_is_merged_with_another_while_tracing(checkpoint_of):
    """The tracer merges initializers of equal content, and placeholders hold what memory held."""
    checkpoint = Checkpoint(checkpoint_of("llava-llama"))
    graphs = LanguageGraphs(checkpoint, checkpoint.config.text_config, torch.float32)
    graph = graphs.stage(StageSpec("stage_0", 0, 2))
    model = onnx_from_module(graph, 23)
    assert set(graph.weights) <= set(model.graph.initializers)
    starts = {tuple(p.detach().flatten()[:8].tolist()) for p in graph.module.parameters()}
    assert len(starts) == len(graph.weights)


def test_a_weight_lost_while_tracing_is_refused(checkpoint_of, monkeypatch):
    monkeypatch.setattr("sparsevlm_trt.export.to_onnx._materialized", _zeros)
    checkpoint = Checkpoint(checkpoint_of("llava-llama"))
    graphs = LanguageGraphs(checkpoint, checkpoint.config.text_config, torch.float32)
    with pytest.raises(ExportError, match=r"tracing lost .*layernorm\.weight"):
        onnx_from_module(graphs.stage(StageSpec("stage_0", 0, 2)), 23)


def _zeros(module):
    return module.to_empty(device="cpu").apply(
        lambda part: [value.data.zero_() for value in part.parameters(recurse=False)]
    )
