"""`sparsevlm inspect` on a tiny bundle and its graphs."""

from __future__ import annotations

import json
import shutil

import pytest
from click.testing import CliRunner

from sparsevlm_ops.schedule import Schedule
from sparsevlm_trt.runtime import Bundle
from sparsevlm_trt.runtime.cli import main
from sparsevlm_trt.runtime.flops import chain_cost


@pytest.fixture
def invoke(bundle_of):
    """`sparsevlm inspect BUNDLE ...`."""
    return lambda *args: CliRunner().invoke(main, ["inspect", str(bundle_of()), *map(str, args)])


def test_tells_stages_tensors_and_costs(invoke):
    result = invoke()
    assert result.exit_code == 0, result.stderr
    for told in (
        "llava with a llama language model, float32",
        "schedule 1:9,3:5",
        "past_key_values.{2..3}.key",
        "[batch, past_len, 32]",
        "16 visual + 64 other tokens",
        "as computed",
        "nominal",
        "KV cache",
    ):
        assert told in result.stdout


def test_json_agrees_with_the_arithmetic(invoke, bundle_of):
    found = json.loads(invoke("--json", "--schedule", "1:7", "--visual", 32, "--text", 10).stdout)
    manifest = Bundle.open(bundle_of()).manifest
    cost = chain_cost(
        manifest.model,
        manifest.vision,
        manifest.stages,
        Schedule.parse("1:7"),
        num_visual=32,
        num_text=10,
        num_images=2,
    )
    assert found["cost"]["prefill_flops"] == cost.prefill_flops
    assert found["cost"]["total_flops"] == cost.total_flops
    assert found["cost"]["kv_bytes"] == cost.kv_bytes
    assert found["cost"]["paper_cut"] == pytest.approx(cost.paper_cut)
    assert [stage["num_visual"] for stage in found["cost"]["stages"]] == [32, 8, 8]
    assert found["cost"]["computed_average_visual_tokens"] == pytest.approx((2 * 32 + 4 * 8) / 6)
    assert found["cost"]["nominal_average_visual_tokens"] == pytest.approx((32 + 5 * 8) / 6)


def test_sizes_are_those_of_the_files(invoke, bundle_of):
    found = json.loads(invoke("--json").stdout)
    files = [path for path in bundle_of().rglob("*") if path.is_file()]
    sizes = {path.name: path.stat().st_size for path in files}
    assert found["size_bytes"] == sum(sizes.values()) - sizes["bundle.json"]
    assert found["stages"][0]["graph_bytes"] == sizes["stage_0.onnx"]


def test_unpruned_saves_nothing(invoke):
    cost = json.loads(invoke("--json", "--method", "none").stdout)["cost"]
    assert (cost["prefill_cut"], cost["paper_cut"], cost["kv_cut"]) == (0, 0, 0)
    assert cost["schedule"] is None


def test_the_manifest_stands_for_its_bundle(bundle_of):
    result = CliRunner().invoke(main, ["inspect", str(bundle_of() / "bundle.json")])
    assert result.exit_code == 0


def test_a_changed_byte_is_seen_unless_told_not_to_look(bundle_of, tmp_path):
    folder = tmp_path / "bundle"
    shutil.copytree(bundle_of(), folder)
    path = folder / "graphs/head.onnx"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    assert CliRunner().invoke(main, ["inspect", str(folder)]).exit_code == 1
    assert CliRunner().invoke(main, ["inspect", str(folder), "--no-verify"]).exit_code == 0


def test_a_graph(bundle_of):
    path = bundle_of() / "graphs/head.onnx"
    found = json.loads(CliRunner().invoke(main, ["inspect", str(path), "--json"]).stdout)
    assert found["opsets"][""] == 23
    assert found["weight_bytes"] >= 300 * 64 * 4
    assert found["missing_files"] == []
    assert [tensor["name"] for tensor in found["outputs"]] == ["logits"]
    text = CliRunner().invoke(main, ["inspect", str(path)])
    assert "Gemm" in text.stdout


def test_a_graph_without_its_weights_still_tells(bundle_of, tmp_path):
    path = tmp_path / "head.onnx"
    shutil.copy(bundle_of() / "graphs/head.onnx", path)
    result = CliRunner().invoke(main, ["inspect", str(path)])
    assert result.exit_code == 0
    assert "missing" in result.stdout


@pytest.mark.parametrize(
    ("args", "told"),
    [
        (["--budget", "1"], "expected a budget above that"),
        (["--schedule", "4:2"], "boundaries: 1, 3"),
        (["--visual", "0", "--text", "0"], "expected 1 or more"),
    ],
)
def test_refusals_are_one_sentence(invoke, args, told):
    result = invoke(*args)
    assert result.exit_code == 1
    assert told in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_a_file_that_is_no_graph():
    result = CliRunner().invoke(main, ["inspect", __file__])
    assert result.exit_code == 1
    assert "expected an ONNX file" in result.stderr
    assert len(result.stderr.splitlines()) == 1
