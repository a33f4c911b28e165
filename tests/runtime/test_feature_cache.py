"""The image cache: what is kept by which name, and what makes room."""

from __future__ import annotations

import numpy as np
import pytest

from sparsevlm_trt.runtime.visuals.feature_cache import FeatureCache, Features
from sparsevlm_trt.runtime.visuals.visual import Visual


def visual(seed=0, **options):
    pixels = np.random.default_rng(seed).normal(size=(1, 3, 6, 8)).astype(np.float32)
    given = {"kind": "image", "inputs": {"pixel_values": pixels}, "num_rows": 1}
    return Visual(**given | {"num_tokens": 4, "text": "", "size": (6, 8)} | options)


def features(value, count=10):
    return Features((np.full((1, count, 1), value, np.float32),))  # 4 * count bytes


@pytest.mark.parametrize(
    "other",
    [
        {"seed": 1},
        {"size": (6, 9)},
        {"grid": (1, 2)},
        {"kind": "video"},
        {"graph": "vision_video"},
        {"cells": (1, 2, 2)},
    ],
)
def test_a_key_is_of_pixels_and_layout(other):
    cache = FeatureCache(1000)
    assert cache.key(visual()) == cache.key(visual())
    assert cache.key(visual()) != cache.key(visual(**other))


def test_the_longest_unused_makes_room():
    cache = FeatureCache(100)
    cache.keep("a", features(1))
    cache.keep("b", features(2))
    assert cache.find("a").tokens[0][0, 0, 0] == 1  # used: b is now the oldest
    cache.keep("c", features(3))
    assert cache.find("b") is None
    assert [cache.find(key) is None for key in "ac"] == [False, False]
    cache.keep("huge", features(4, count=26))
    assert cache.find("huge") is None
    assert cache.find("a") is not None


def test_what_the_engine_overwrites_later_stays():
    cache, made = FeatureCache(1000), features(1)
    cache.keep("a", made)
    made.tokens[0][:] = 5
    assert cache.find("a").tokens[0][0, 0, 0] == 1


def test_arrays_on_a_device_are_left_there():
    class OnDevice:
        nbytes = 4

    cache = FeatureCache(1000)
    cache.keep("a", Features((OnDevice(),)))
    assert cache.find("a") is None


def test_nothing_is_kept_without_room():
    cache = FeatureCache(0)
    cache.keep(cache.key(visual()), features(1))
    assert cache.find(cache.key(visual())) is None
