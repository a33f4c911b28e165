"""The exported fp32 chain on ONNX Runtime against the authors' recorded runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from sparsevlm_trt.export import export_bundle
from sparsevlm_trt.runtime.bundle import Bundle
from sparsevlm_trt.runtime.generation import Result
from sparsevlm_trt.runtime.ort import OnnxRuntimeRunner
from sparsevlm_trt.runtime.runner import Array
from sparsevlm_trt.runtime.session import Session

CHECKOUT = Path(__file__).parents[2]
ROOTS = (CHECKOUT / "tests" / "data" / "golden", CHECKOUT.parent / "shared" / "golden")
# (case, checkpoint, budget)
CASES = [
    ("v15_r128_gqa4_P5_V576_T9", "llama-gqa4", 128),
    ("v15_r64_gqa4_P35_V576_T53", "llama-gqa4", 64),
    ("v15_r96_mha_P5_V144_T9", "llama-mha", 96),
    ("v15_r192_mha_P35_V576_T53", "llama-mha", 192),
]
TOLERANCE = 1e-4  # float32; measured 8.6e-6 on hidden states, 8.8e-6 on logits
SCORE_TOLERANCE = 1e-5  # relative to the largest score; measured 3.1e-6
NUM_TOKENS = 9


class Recorder(OnnxRuntimeRunner):
    """ONNX Runtime, with every call kept: its graph, inputs and outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[str, dict[str, Array], dict[str, Array]]] = []

    def run(
        self, graph: str, inputs: Mapping[str, Array], into: Mapping[str, Array] | None = None
    ) -> dict[str, Array]:
        given = {name: array.copy() for name, array in inputs.items()}
        outputs = super().run(graph, inputs, into)
        self.calls.append((graph, given, {name: a.copy() for name, a in outputs.items()}))
        return outputs

    def of(self, prefix: str) -> list[tuple[str, dict[str, Array], dict[str, Array]]]:
        return [call for call in self.calls if call[0].startswith(prefix)]


@dataclass(frozen=True)
class ChainRun:
    """A case's recorded arrays, and what the chain made of it."""

    theirs: dict[str, np.ndarray]
    result: Result
    recorder: Recorder
    bundle: Bundle

    def stage(self, index: int, array: str) -> np.ndarray:
        return self.theirs[f"stage{index}_{array}"]

    @property
    def num_stages(self) -> int:
        return int(self.theirs["n_stages"])


def find(*parts: str) -> Path:
    for root in ROOTS:
        if root.joinpath(*parts).exists():
            return root.joinpath(*parts)
    return pytest.skip(f"{'/'.join(parts)}: neither in tests/data/golden nor in ../shared/golden")


@pytest.fixture(scope="session")
def golden_bundle(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The bundle of a golden checkpoint; one serves the cases of every budget."""
    made: dict[str, Path] = {}

    def make(checkpoint: str) -> Path:
        if checkpoint not in made:
            weights = find("checkpoints", checkpoint, "model.safetensors")
            out = tmp_path_factory.mktemp("golden") / checkpoint
            made[checkpoint] = export_bundle(weights.parent, out)
        return made[checkpoint]

    return make


@pytest.fixture(scope="session")
def run_case(golden_bundle: Callable[[str], Path]) -> Callable[[str, str, int], ChainRun]:
    made: dict[str, ChainRun] = {}

    def run(name: str, checkpoint: str, budget: int) -> ChainRun:
        if name not in made:
            with np.load(find("cases", f"{name}.npz")) as file:
                theirs = {key: file[key] for key in file.files}
            bundle = Bundle.open(golden_bundle(checkpoint))
            with Recorder() as recorder:
                recorder.load(bundle, list(bundle.manifest.graphs))
                session = Session(bundle, recorder)
                ids = [theirs["prefix_ids"], theirs["suffix_ids"]]
                prefix, suffix = (
                    recorder.run("embed", {"input_ids": part[None]})["inputs_embeds"][0]
                    for part in ids
                )
                recorder.calls.clear()
                result = session.generate_from_embeds(
                    np.concatenate([prefix, theirs["visual_embeds"], suffix]),
                    prefix_length=len(prefix),
                    num_visual=len(theirs["visual_embeds"]),
                    budget=budget,
                    max_new_tokens=NUM_TOKENS,
                    stop_tokens=(),
                )
            made[name] = ChainRun(theirs, result, recorder, bundle)
        return made[name]

    return run


@pytest.fixture(params=CASES, ids=lambda case: case[0])
def run(request: pytest.FixtureRequest, run_case: Callable[[str, str, int], ChainRun]) -> ChainRun:
    return run_case(*request.param)


def largest_difference(ours: np.ndarray, theirs: np.ndarray) -> float:
    assert ours.shape == theirs.shape
    return float(np.abs(ours - theirs).max())


def test_raters_equal_the_authors(run):
    ((_, _, out),) = run.recorder.of("raters")
    assert np.flatnonzero(out["rater_mask"][0]).tolist() == run.theirs["rater_idx"].tolist()
    assert largest_difference(out["rater_scores"][0], run.theirs["rater_scores"]) <= 1e-6
    # What the stages were asked: the raters' rows in the sequence as it is there.
    prefix, num_text = len(run.theirs["prefix_ids"]), len(run.theirs["suffix_ids"])
    for s in range(run.num_stages):
        _, asked, _ = run.recorder.of(f"stage_{s}")[0]
        first_text = prefix + int(run.stage(s, "n_vis_in"))
        assert asked["hidden_states"].shape[1] == first_text + num_text
        rows = np.sort(asked["rater_index"][0]) - first_text
        assert rows.tolist() == run.theirs["rater_idx"].tolist()


def test_decisions_equal_the_authors(run):
    stages = run.result.trace.stages
    assert len(stages) == run.num_stages
    for s, stage in enumerate(stages):
        assert stage.layer == int(run.stage(s, "layer"))
        assert stage.num_visual_in == int(run.stage(s, "n_vis_in"))
        assert stage.num_visual_out == int(run.stage(s, "n_vis_out"))
        assert stage.num_merged == int(run.stage(s, "n_merged"))
        assert stage.kept.tolist() == run.stage(s, "kept").tolist()
        theirs = set(run.stage(s, "merge_candidates").tolist())
        assert set(stage.merge_candidates.tolist()) == theirs
        assert len(stage.merge_candidates) == len(theirs)


def test_positions_equal_the_authors(run):
    for s, (_, _, out) in enumerate(run.recorder.of("prune_")):
        assert out["next_position_ids"][0].tolist() == run.stage(s, "position_ids").tolist()


def test_values_are_close_to_the_authors(run):
    prefix = len(run.theirs["prefix_ids"])
    prunes = run.recorder.of("prune_sparsevlm")
    assert len(prunes) == run.num_stages
    for s, (_, _, out) in enumerate(prunes):
        scores = run.stage(s, "scores")
        close = SCORE_TOLERANCE * float(np.abs(scores).max())
        assert largest_difference(out["visual_scores"][0], scores) <= close
        hidden = out["next_hidden_states"][0]
        assert largest_difference(hidden, run.stage(s, "hidden")) <= TOLERANCE
        start = prefix + len(run.stage(s, "kept"))
        merged = hidden[start : start + int(run.stage(s, "n_merged"))]
        assert largest_difference(merged, run.stage(s, "merged")) <= TOLERANCE


def test_generation_equals_the_authors(run):
    result, theirs = run.result, run.theirs
    assert result.tokens == theirs["tokens"].tolist()
    assert largest_difference(result.prefill_logits, theirs["prefill_logits"]) <= TOLERANCE
    assert largest_difference(result.step_logits, theirs["decode_logits"]) <= TOLERANCE


def test_caches_and_decode_positions_equal_the_authors(run):
    lengths: list[int] = []
    positions: list[list[int]] = [[] for _ in range(NUM_TOKENS - 1)]
    for stage in run.bundle.manifest.stages:
        prefill, *steps = run.recorder.of(stage.graph)
        num_layers = stage.stop - stage.first
        lengths += [prefill[1]["hidden_states"].shape[1]] * num_layers
        assert len(steps) == NUM_TOKENS - 1
        for s, (_, given, _) in enumerate(steps):
            assert given["past_lengths"].tolist() == [lengths[-1] + s]
            past = {v.shape[1] for name, v in given.items() if name.startswith("past_key")}
            assert past == {lengths[-1] + s}
            positions[s] += [int(given["position_ids"][0, 0])] * num_layers
    assert lengths == run.theirs["kv_len_after_prefill"].tolist()
    assert positions == run.theirs["decode_position_ids"].tolist()
