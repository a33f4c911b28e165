"""Hidden states kept times 2^-k: in float32, the same numbers to the bit, in every family."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from overflowing_checkpoint import save_overflowing
from torch_chain import torch_bundle

from sparsevlm_ops.schedule import Schedule
from sparsevlm_trt.export.parity.case import Sides
from sparsevlm_trt.export.parity.prompts import ask, prompt_from_visuals
from sparsevlm_trt.export.parity.reference_model import ReferenceModel
from sparsevlm_trt.runtime.errors import RunnerError
from sparsevlm_trt.runtime.recording import RecordingRunner
from sparsevlm_trt.runtime.session import Session

SCHEDULE = Schedule.of({1: 9})
METHODS = ("sparsevlm", "fastv", "uniform")
SHIFT = 7
KINDS = ("internvl", "llava-llama", "llava_onevision", "qwen2_5_vl", "qwen2_vl", "qwen3_vl")


def picture() -> np.ndarray:
    return np.random.default_rng(0).integers(256, size=(70, 90, 3), dtype=np.uint8)


def recorded(session: Session, runner: RecordingRunner, method: str):
    """The answer, and every call of its prefill and first step."""
    mark = session.processor.placeholders[0]
    prompt = prompt_from_visuals(session, "p", f"look: {mark} what is it?", images=[picture()])
    runner.start()
    answer = ask(session, prompt, method=method, max_new_tokens=8)
    return answer, runner.stop()


@pytest.mark.parametrize("kind", KINDS)
def test_scaling_changes_nothing(checkpoint_of, tmp_path, kind):
    plain, modules = torch_bundle(checkpoint_of(kind), tmp_path / "plain", {1: 9}, METHODS)
    scaled, scaled_modules = torch_bundle(
        checkpoint_of(kind), tmp_path / "scaled", {1: 9}, METHODS, residual_shift=SHIFT
    )
    assert (plain.manifest.model.residual_scale, scaled.manifest.model.residual_scale) == (
        1.0,
        2.0**-SHIFT,
    )
    runners = RecordingRunner(modules), RecordingRunner(scaled_modules)
    sessions = Session(plain, runners[0]), Session(scaled, runners[1])
    for method in (*METHODS, "none"):
        (one, ours), (other, theirs) = (
            recorded(session, runner, method)
            for session, runner in zip(sessions, runners, strict=True)
        )
        assert one.tokens == other.tokens
        assert len(ours) == len(theirs)
        for call, match in zip(ours, theirs, strict=True):
            assert call.graph == match.graph
            for name, value in call.outputs.items():
                got = match.outputs[name]
                if name in ("last_hidden_state", "next_hidden_states"):
                    got = got * np.float32(2.0**SHIFT)
                np.testing.assert_array_equal(got, value, err_msg=f"{call.graph} {name} {method}")


@pytest.mark.parametrize("kind", ["llava-llama", "qwen3_vl"])
def test_a_scaled_bundle_passes_the_parity_check(checkpoint_of, tmp_path, kind):
    bundle, modules = torch_bundle(
        checkpoint_of(kind), tmp_path / "scaled", {1: 9}, METHODS, residual_shift=SHIFT
    )
    runner = RecordingRunner(modules)
    reference = ReferenceModel(checkpoint_of(kind), bundle.manifest)
    sides = Sides(Session(bundle, runner), runner, reference, 8)
    mark = sides.session.processor.placeholders[0]
    prompt = prompt_from_visuals(
        sides.session, "p", f"look: {mark} what is it?", images=[picture()]
    )
    assert sides.compare_unpruned(prompt).passed
    for method in ("sparsevlm", "uniform"):
        assert sides.compare_pruned(prompt, method, SCHEDULE).passed


def test_what_float16_cannot_hold_it_holds_scaled(make_once, tmp_path):
    # PyTorch rounds after every operator, so that an overflow is one wherever it happens.
    checkpoint = make_once(
        "swollen-language", lambda folder: save_overflowing(folder, tower=False)
    )

    def session(name: str, dtype: torch.dtype, shift: int) -> Session:
        folder = tmp_path / name
        bundle, runner = torch_bundle(checkpoint, folder, {1: 9}, METHODS, shift, dtype)
        return Session(bundle, runner)

    def answer(made: Session, method: str):
        given = {"images": [picture()], "prompt": "USER: <image> what is it?"}
        return made.generate(**given, method=method, max_new_tokens=6, stop_tokens=())

    exact = session("float32", torch.float32, 0)
    plain = session("float16", torch.float16, 0)
    scaled = session("scaled", torch.float16, 5)
    for method in (*METHODS, "none"):
        with pytest.raises(RunnerError, match="nan"):
            answer(plain, method)
        expected, got = answer(exact, method), answer(scaled, method)
        assert got.tokens == expected.tokens
        scale = np.abs(expected.prefill_logits).max()
        assert np.abs(got.prefill_logits - expected.prefill_logits).max() < 5e-3 * scale
        for one, other in zip(got.trace.stages, expected.trace.stages, strict=True):
            assert one.kept.tolist() == other.kept.tolist()
