"""Codes and scales: bounds of the error, and that compensation makes products better."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsevlm_trt.calibration.rounding import compensated, nearest
from sparsevlm_trt.calibration.schemes import FP8, INT4, INT8

FLOAT32 = np.dtype(np.float32)


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 1000),
    size=st.floats(1e-4, 1e4),
    form=st.sampled_from([INT8, INT4]),
    block=st.sampled_from([None, 16, 32]),
)
def test_no_whole_number_is_off_by_more_than_half_a_step(seed, size, form, block):
    weight = np.random.default_rng(seed).normal(0, size, (64, 5)).astype(np.float32)
    made = nearest(weight, form, block, FLOAT32)
    steps = np.repeat(np.atleast_2d(made.scales), 64 // np.atleast_2d(made.scales).shape[0], 0)
    assert (np.abs(made.values() - weight) <= 0.5001 * steps).all()
    assert np.abs(made.codes.astype(np.float32)).max() <= form.largest


def test_zeros_stay_zeros():
    made = nearest(np.zeros((32, 3), np.float32), INT8, None, FLOAT32)
    assert not made.values().any()


def test_scales_of_half_precision_are_those_that_codes_are_made_with():
    weight = np.random.default_rng(0).normal(0, 1e-3, (64, 5)).astype(np.float32)
    made = nearest(weight, INT8, None, np.dtype(np.float16))
    assert made.scales.dtype == np.float16
    assert np.abs(made.values() - weight).max() <= 0.51 * made.scales.max()


@pytest.mark.parametrize("form", [INT4, FP8])
def test_values_are_near(form):
    weight = np.random.default_rng(0).normal(size=(64, 8)).astype(np.float32)
    error = nearest(weight, form, 16 if form is INT4 else None, FLOAT32).values() - weight
    assert np.square(error).mean() < 0.02


def test_compensation_makes_products_of_the_data_better():
    random = np.random.default_rng(0)
    mixing = random.normal(size=(64, 64))
    rows = (random.normal(size=(512, 64)) @ mixing).astype(np.float32)  # inputs that go together
    weight = random.normal(size=(64, 16)).astype(np.float32)
    moments = rows.T @ rows
    expected = rows @ weight

    def error_of(values: np.ndarray) -> float:
        return float(np.square(rows @ values - expected).sum())

    plain = error_of(nearest(weight, INT4, 32, FLOAT32).values())
    better = error_of(compensated(weight, moments, INT4, 32, FLOAT32).values())
    assert better < 0.5 * plain
