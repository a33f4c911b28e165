"""The filtered distribution is that of transformers' warpers; the draw follows it and its seed."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from sparsevlm_trt.runtime.errors import InputError, RunnerError
from sparsevlm_trt.runtime.sampling import Sampler


def theirs(logits, temperature, top_k, top_p):
    scores = torch.from_numpy(logits)[None]
    scores = TemperatureLogitsWarper(float(temperature))(None, scores)
    if top_k:
        scores = TopKLogitsWarper(top_k)(None, scores)
    if top_p < 1:
        scores = TopPLogitsWarper(top_p)(None, scores)
    return scores[0].numpy()


@settings(max_examples=150, deadline=None)
@given(
    seed=st.integers(0, 9999),
    vocab=st.sampled_from([2, 17, 1000, 32064]),
    temperature=st.sampled_from([0.05, 0.2, 0.7, 1.0, 1.5, 3]),
    top_k=st.sampled_from([0, 1, 2, 50, 999, 40000]),
    top_p=st.sampled_from([0.0, 0.1, 0.5, 0.9, 0.95, 0.999, 1.0]),
    scale=st.sampled_from([0.1, 1.0, 8.0]),
)
def test_filtered_equals_the_warpers(seed, vocab, temperature, top_k, top_p, scale):
    logits = np.random.default_rng(seed).normal(0, scale, vocab).astype(np.float32)
    ours = Sampler(temperature, top_k, top_p).filtered(logits)
    expected = theirs(logits, temperature, top_k, top_p)
    assert ours.dtype == np.float32
    np.testing.assert_array_equal(np.isneginf(ours), np.isneginf(expected))
    np.testing.assert_allclose(ours, expected, rtol=1e-6)


def test_ties_at_top_k_are_all_kept_as_the_warper_does():
    logits = np.array([1, 3, 2, 2, 2], np.float32)
    ours = Sampler(1.0, 2).filtered(logits)
    np.testing.assert_array_equal(ours, theirs(logits, 1.0, 2, 1.0))
    assert np.isfinite(ours).sum() == 4


def test_ties_at_top_p_keep_the_lower_ids():
    kept = np.isfinite(Sampler(1.0, top_p=0.4).filtered(np.zeros(4, np.float32)))
    np.testing.assert_array_equal(kept, [True, True, False, False])


def test_greedy_takes_the_lower_of_equals():
    logits = np.array([0, 5, 5, 1], np.float16)
    assert Sampler().pick(logits) == 1
    assert Sampler(0, top_k=1, top_p=0.1).pick(logits) == 1
    np.testing.assert_array_equal(np.isfinite(Sampler().filtered(logits)), [0, 1, 0, 0])


def test_a_seed_reproduces_and_seeds_differ():
    logits = np.random.default_rng(0).normal(size=500)

    def draw(seed):
        sampler = Sampler(1.0, seed=seed)
        return [sampler.pick(logits) for _ in range(40)]

    assert draw(7) == draw(7)
    assert draw(7) != draw(8)
    assert draw(None) != draw(None)


def test_draws_follow_the_filtered_distribution():
    logits = np.log(np.array([0.5, 0.3, 0.15, 0.05], np.float32))
    sampler = Sampler(1.0, top_k=3, seed=0)
    counts = np.bincount([sampler.pick(logits) for _ in range(20000)], minlength=4)
    # Standard error of each share is below 0.0036.
    np.testing.assert_allclose(counts / 20000, np.array([50, 30, 15, 0]) / 95, atol=0.015)
    assert counts[3] == 0


def test_a_draw_at_the_very_end_stays_on_an_allowed_token(monkeypatch):
    class Last:
        def random(self):
            return 1.0

    sampler = Sampler(1.0, top_k=1)
    object.__setattr__(sampler, "_random", Last())
    assert sampler.pick(np.array([1, 9, 2], np.float32)) == 1


def test_very_small_temperature_neither_overflows_nor_divides_by_zero():
    assert Sampler(1e-6, seed=0).pick(np.array([100, 101, 50], np.float32)) == 1


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("temperature", [0, 1.0])
def test_logits_without_a_finite_largest_are_refused(bad, temperature):
    logits = np.full(4, bad, np.float32) if np.isneginf(bad) else np.array([0, bad, 1, 2])
    with pytest.raises(RunnerError, match="expected a finite number"):
        Sampler(temperature).pick(logits)


def test_all_bad_options_are_named_at_once():
    with pytest.raises(InputError) as caught:
        Sampler(-1, 2.5, 1.1, -3)
    for name in ("temperature -1", "top_k 2.5", "top_p 1.1", "seed -3"):
        assert name in str(caught.value)
    for bad in (
        {"temperature": float("nan")},
        {"top_p": "0.5"},
        {"top_k": True},
        {"temperature": 1e-40},
    ):
        with pytest.raises(InputError):
            Sampler(**bad)
