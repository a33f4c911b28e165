"""The whole check on tiny bundles: right ones pass, damaged ones fail where they were damaged."""

import json
import shutil

import numpy as np
import pytest
from safetensors.torch import load_file, save_file

from sparsevlm_trt.export.parity import check_parity, selections
from sparsevlm_trt.export.parity.tolerances import Tolerance
from sparsevlm_trt.runtime.errors import ParityError
from sparsevlm_trt.runtime.ort import OnnxRuntimeRunner

TOKENS = 6


class Perturbed(OnnxRuntimeRunner):
    """Changes one output of one graph when it reads a prompt."""

    def __init__(self, graph, tensor, change):
        super().__init__()
        self.graph, self.tensor, self.change = graph, tensor, change

    def run(self, graph, inputs, into=None):
        outputs = super().run(graph, inputs, into)
        if graph == self.graph and outputs[self.tensor].size:
            outputs[self.tensor][...] = self.change(outputs[self.tensor])
        return outputs


@pytest.mark.parametrize("kind", ["llava-llama", "llava-mistral", "llama"])
def test_a_float32_bundle_passes(bundle_of, checkpoint_of, kind):
    report = check_parity(bundle_of(kind), checkpoint_of(kind), max_new_tokens=32, save=False)
    assert report.passed, report.page()
    pruned, unpruned = report.cases
    assert (pruned.method, pruned.schedule) == ("sparsevlm", "1:9,3:5")
    assert (unpruned.method, unpruned.reference) == ("none", "transformers' generate")
    assert pruned.decisions.same
    for answer in (pruned.answer, pruned.replayed, unpruned.answer):
        assert answer.num_equal == 32
        assert max(answer.prefill_error, answer.step_error) <= 1e-4
    graphs = {check.graph for check in pruned.graphs.checks}
    vision = {"vision"} if kind != "llama" else set()
    stages = {"stage_0", "stage_1", "stage_2"}
    assert graphs == {"embed", "raters", "rater_rows", "prune_sparsevlm", "head"} | stages | vision
    assert {check.phase for check in pruned.graphs.checks} == {"prefill", "decode"}


def test_a_float16_bundle_passes(bundle_of, checkpoint_of):
    report = check_parity(
        bundle_of("llava-llama", "float16"),
        checkpoint_of("llava-llama"),
        max_new_tokens=TOKENS,
        save=False,
    )
    assert report.passed, report.page()
    # Half precision is what makes the difference, so a difference must be seen.
    assert max(check.max_rel for check in report.cases[0].graphs.checks) > 1e-5


def test_one_wrong_weight_is_found_in_its_graph(bundle_of, checkpoint_of, tmp_path):
    damaged = tmp_path / "checkpoint"
    shutil.copytree(checkpoint_of("llava-llama"), damaged)
    weights = load_file(damaged / "model.safetensors")
    name = next(n for n in weights if n.endswith("layers.2.mlp.down_proj.weight"))
    weights[name][3, 5] += 0.5
    save_file(weights, damaged / "model.safetensors", metadata={"format": "pt"})
    report = check_parity(bundle_of("llava-llama"), damaged, max_new_tokens=TOKENS, save=False)
    assert not report.passed
    for case in report.cases:
        failed = {check.graph for check in case.graphs.checks if not check.passed}
        assert failed == {"stage_1"}
        assert case.graphs.worst.graph == "stage_1"
        assert not case.answer_passed


@pytest.mark.parametrize(
    ("graph", "tensor"),
    [
        ("vision", "image_features"),
        ("stage_1", "last_hidden_state"),
        ("stage_1", "queries"),
        ("rater_rows", "rater_attention"),
        ("stage_2", "new_key_values.4.value"),
        ("prune_sparsevlm", "next_hidden_states"),
        ("head", "logits"),
    ],
)
def test_a_wrong_graph_is_named(bundle_of, checkpoint_of, graph, tensor):
    runner = Perturbed(graph, tensor, lambda value: value * np.float32(1.003))
    report = check_parity(
        bundle_of("llava-llama"),
        checkpoint_of("llava-llama"),
        runner=runner,
        max_new_tokens=2,
        save=False,
    )
    assert not report.passed
    worst = report.cases[0].graphs.worst
    assert (worst.graph, worst.tensor) == (graph, tensor)
    assert worst.max_rel == pytest.approx(0.003, rel=0.05)
    failed = {(c.graph, c.tensor) for c in report.cases[0].graphs.checks if not c.passed}
    assert failed == {(graph, tensor)}


def lift_the_worst(attention):
    """Make the lowest-scored visual token the best one."""
    changed = attention.copy()
    worst = attention.mean(axis=(0, 1, 2)).argmin()
    changed[..., worst] = attention.max() * 1.1
    return changed


def test_a_wrong_score_is_a_disagreement_and_replay_isolates_it(bundle_of, checkpoint_of):
    runner = Perturbed("rater_rows", "rater_attention", lift_the_worst)
    report = check_parity(
        bundle_of("llava-llama"),
        checkpoint_of("llava-llama"),
        runner=runner,
        max_new_tokens=TOKENS,
        save=False,
    )
    pruned, unpruned = report.cases
    assert not pruned.passed
    assert pruned.graphs.worst.tensor == "rater_attention"
    boundary = next(b for b in pruned.decisions.boundaries if b.layer == 1)
    assert not boundary.selection.passed
    assert boundary.selection.overlap == pytest.approx(8 / 9)
    wrong = [e for e in boundary.selection.disagreements if e.chosen_by == "chain"]
    assert wrong[0].choice == "kept"
    assert wrong[0].margin > 1e-3
    # With the reference's scores in place of the wrong ones, nothing else is wrong; nor is the
    # arithmetic along the chain's own path.
    assert not pruned.answer.passed
    assert pruned.replayed.passed
    assert pruned.followed.passed
    # Without pruning nobody rates.
    assert unpruned.passed


def test_ties_alone_do_not_fail_an_answer(bundle_of, checkpoint_of, monkeypatch):
    noisy = Tolerance("score", "float32", 0.0, 10.0, "", "")
    monkeypatch.setattr(selections, "tolerance", lambda *_: noisy)
    runner = Perturbed("rater_rows", "rater_attention", lift_the_worst)
    report = check_parity(
        bundle_of("llava-llama"),
        checkpoint_of("llava-llama"),
        runner=runner,
        max_new_tokens=TOKENS,
        save=False,
    )
    pruned = report.cases[0]
    assert pruned.drifted
    assert pruned.decisions.passed
    assert not pruned.answer.passed
    assert pruned.answer_passed
    assert "(tie)" in report.page()


def test_another_models_checkpoint_is_refused(bundle_of, checkpoint_of):
    with pytest.raises(ParityError, match=r"model_type llava \(bundle: llama\)"):
        check_parity(bundle_of("llama"), checkpoint_of("llava-llama"), save=False)


def test_images_need_a_vision_graph(bundle_of, checkpoint_of):
    with pytest.raises(ParityError, match="has no vision graph"):
        check_parity(bundle_of("llama"), checkpoint_of("llama"), images=["a.png"], save=False)


def test_the_report_is_kept_in_the_bundle(bundle_of, checkpoint_of):
    bundle = bundle_of("llama")
    report = check_parity(bundle, checkpoint_of("llama"), max_new_tokens=2)
    path = bundle / "reports" / "parity-sparsevlm-1_9-3_5.json"
    assert json.loads(path.read_text()) == json.loads(json.dumps(report.to_json()))
    assert path.with_suffix(".md").read_text() == report.page()
    assert {file.name for file in path.parent.iterdir()} == {path.name, path.stem + ".md"}
    found = json.loads(path.read_text())
    assert found["passed"] is True
    assert found["machine"]["cpu"]
    assert found["machine"]["torch"]
    assert found["seed"] == 0
    assert len(found["cases"][0]["prompt_sha256"]) == 64
    assert found["cases"][0]["verdicts"] == {"graphs": True, "decisions": True, "answer": True}


def test_a_report_that_cannot_be_written_is_an_error(bundle_of, checkpoint_of, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ParityError, match=r"report .* expected a place to write in"):
        check_parity(
            bundle_of("llama"),
            checkpoint_of("llama"),
            max_new_tokens=2,
            report=tmp_path / "file" / "report.json",
        )


def test_the_same_question_twice_gives_the_same_report(bundle_of, checkpoint_of):
    one, other = (
        check_parity(bundle_of("llama"), checkpoint_of("llama"), max_new_tokens=2, save=False)
        for _ in range(2)
    )
    assert one.to_json() == other.to_json()
