import json

import pytest
from click.testing import CliRunner

from sparsevlm_trt.export.parity_cli import parity


@pytest.fixture
def run(bundle_of, checkpoint_of):
    def invoke(*args, kind="llama", checkpoint=None):
        paths = [str(bundle_of(kind)), str(checkpoint or checkpoint_of(kind))]
        return CliRunner().invoke(parity, [*paths, "--max-new-tokens", "2", *args])

    return invoke


def test_good_verdicts_exit_with_0_and_a_page(run, tmp_path):
    report = tmp_path / "found.json"
    result = run("--report", str(report))
    assert result.exit_code == 0, result.output
    assert "parity passed: 2 of 2 cases" in result.stdout
    assert json.loads(report.read_text())["passed"] is True
    assert report.with_suffix(".md").is_file()


def test_json_is_all_of_stdout(run, tmp_path):
    result = run("--json", "--method", "none", "--report", str(tmp_path / "found.json"))
    assert result.exit_code == 0
    found = json.loads(result.stdout)
    assert [case["method"] for case in found["cases"]] == ["none"]
    assert found["cases"][0]["decisions"] is None


def test_a_failed_verdict_exits_with_1(run, checkpoint_of, tmp_path):
    # Trained further, say: the same shapes, other weights.
    from transformers import LlamaForCausalLM

    model = LlamaForCausalLM.from_pretrained(checkpoint_of("llama"))
    model.model.layers[0].mlp.up_proj.weight.data.mul_(1.01)
    model.save_pretrained(tmp_path / "other")
    result = run("--report", str(tmp_path / "found.json"), checkpoint=tmp_path / "other")
    assert result.exit_code == 1
    assert "parity FAILED: 0 of 2 cases" in result.stdout
    assert "FAILED: stage_0." in result.stdout
    assert json.loads((tmp_path / "found.json").read_text())["passed"] is False


def test_an_error_is_one_sentence_and_exits_with_1(run, tmp_path):
    result = run(checkpoint=tmp_path / "nothing")
    assert result.exit_code == 1
    assert "no such folder" in result.stderr


@pytest.mark.parametrize(
    "args",
    [("--budget", "64", "--schedule", "1:9"), ("--max-new-tokens", "1")],
    ids=" ".join,
)
def test_wrong_usage_exits_with_2(run, args):
    assert run(*args).exit_code == 2


@pytest.mark.parametrize(
    "args",
    [("--budget", "0"), ("--schedule", "2:9"), ("--method", "guess")],
    ids=" ".join,
)
def test_a_plan_that_the_bundle_cannot_follow_is_one_sentence_and_exits_with_1(run, args):
    result = run(*args)
    assert result.exit_code == 1
    told = [line for line in result.stderr.splitlines() if line.startswith("Error: ")]
    assert len(told) == 1
    assert "Traceback" not in result.stderr
