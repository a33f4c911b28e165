"""A cache of int8 codes: a quarter of the bytes, the same pruning, nearly the same answers."""

from __future__ import annotations

import numpy as np
import pytest

from sparsevlm_trt.runtime import Session
from sparsevlm_trt.runtime.bundle import Bundle
from sparsevlm_trt.runtime.evaluation.questions import read_questions
from sparsevlm_trt.runtime.flops import chain_cost

NEW_TOKENS = 6
MOST_NOISE = 1e-3  # of the energy of a step's logits


def answers(path, questions, runner="onnxruntime", **options):
    with Session.load(path, runner=runner, verify=False, **options) as session:
        results = []
        for question in read_questions(questions, limit=3).questions:
            content = [{"type": "image"}, {"type": "text", "text": question.text}]
            results.append(
                session.generate(
                    images=[question.image],
                    messages=[{"role": "user", "content": content}],
                    max_new_tokens=NEW_TOKENS,
                )
            )
        return results


@pytest.fixture(scope="module")
def pair(quantized):
    """The same quantised bundle with a cache of float32 and of int8."""
    return quantized("int8-weight").path, quantized("int8-weight", int8_cache=True).path


def test_what_is_pruned_and_the_first_token_stay_as_they_were(pair, questions):
    for plain, coded in zip(*(answers(path, questions) for path in pair), strict=True):
        assert np.array_equal(plain.prefill_logits, coded.prefill_logits)
        for one, other in zip(plain.trace.stages, coded.trace.stages, strict=True):
            assert np.array_equal(one.kept, other.kept)


def noise(plain, coded) -> float:
    """Squared difference as a share of the first one's energy."""
    return float(np.square(plain - coded).sum() / np.square(plain).sum())


def test_steps_stay_near(pair, questions):
    for plain, coded in zip(*(answers(path, questions) for path in pair), strict=True):
        assert 0 < noise(plain.step_logits[0], coded.step_logits[0]) < MOST_NOISE


def test_a_quarter_of_the_bytes(pair, questions):
    for plain, coded in zip(*(answers(path, questions) for path in pair), strict=True):
        assert sum(plain.trace.kv_bytes) == 4 * sum(coded.trace.kv_bytes)
    manifests = [Bundle.open(path, verify=False).manifest for path in pair]
    plain_cost, coded_cost = (
        chain_cost(m.model, m.vision, m.stages, None, num_visual=16, num_text=8) for m in manifests
    )
    assert sum(s.kv_bytes for s in plain_cost.stages) == 4 * sum(
        s.kv_bytes for s in coded_cost.stages
    )


def test_openvino_reads_the_codes(pair, questions):
    pytest.importorskip("openvino", reason="the extra openvino is not installed")
    engine = {"runner": "openvino", "dtype": "float32"}
    both = (answers(path, questions, **engine) for path in pair)
    for plain, coded in zip(*both, strict=True):
        # The engine rounds activations on its own where weights are int8, and not alike.
        assert noise(plain.prefill_logits, coded.prefill_logits) < MOST_NOISE
        if plain.tokens[0] == coded.tokens[0]:
            assert noise(plain.step_logits[0], coded.step_logits[0]) < MOST_NOISE
