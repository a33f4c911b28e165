"""Caches of one prompt and of several give back what was written, and copy as little as can be."""

from __future__ import annotations

import numpy as np
import pytest

from sparsevlm_trt.runtime.batch_cache import BatchCache
from sparsevlm_trt.runtime.kv_cache import StageCache


def fill(cache, count, value):
    written = cache.new_views(count)
    for array in written.values():
        array[...] = value
    cache.advance(written)


@pytest.mark.parametrize("batch", [1, 3])
def test_entries_come_back_in_order(batch):
    made = StageCache(range(4, 6), 10, 8, np.float32)
    cache = made if batch == 1 else BatchCache(range(4, 6), batch, 10, 8, np.float32)
    assert cache.views()["past_key_values.4.key"].shape == (batch, 0, 8)
    fill(cache, 3, 1.0)
    fill(cache, 1, 2.0)
    fill(cache, 2, 3.0)
    views = cache.views()
    assert list(views) == [
        f"past_key_values.{i}.{part}" for i in (4, 5) for part in ("key", "value")
    ]
    assert cache.lengths.tolist() == [6] * batch
    assert cache.nbytes == batch * 6 * cache.entry_bytes == batch * 6 * 4 * 8 * 4
    for view in views.values():
        assert view.flags.c_contiguous
        assert view[:, :6, 0].tolist() == [[1.0, 1.0, 1.0, 2.0, 3.0, 3.0]] * batch
        assert not view[:, 6:].any()  # masked, it must still be a number


def test_a_batch_keeps_what_the_graph_wrote_and_moves_it_rarely():
    cache = BatchCache([0], 2, 300, 8, np.float32)
    written = cache.new_views(100)
    fill_with = written["new_key_values.0.key"]
    fill_with[...] = 5
    cache.advance(written)
    assert cache.views()["past_key_values.0.key"] is fill_with
    homes = set()
    for _ in range(200):
        fill(cache, 1, 6.0)
        view = cache.views()["past_key_values.0.key"]
        homes.add(id(view.base if view.base is not None else view))
        assert cache.length <= view.shape[1] < cache.length + 64
    assert len(homes) <= 4
    assert (view[:, :100] == 5).all()
    assert (view[:, 100:300] == 6).all()


def test_one_row_is_neither_copied_in_nor_out():
    cache = StageCache([0], 10, 8, np.float16)
    written = cache.new_views(2)
    written["new_key_values.0.key"][...] = 5
    cache.advance(written)
    assert np.shares_memory(
        cache.views()["past_key_values.0.key"], written["new_key_values.0.key"]
    )
    assert cache.views()["past_key_values.0.key"].tolist() == np.full((1, 2, 8), 5).tolist()
    assert cache.new_views(1)["new_key_values.0.key"].flags.c_contiguous


def test_used_bytes():
    cache = StageCache(range(2), 10, 8, np.float16)
    fill(cache, 3, 0)
    assert cache.nbytes == 2 * 2 * 3 * 8 * 2


@pytest.mark.parametrize(
    "cache",
    [StageCache([0], 4, 8, np.float32), BatchCache([0], 2, 4, 8, np.float32)],
    ids=["one", "batch"],
)
def test_a_full_cache_says_so(cache):
    fill(cache, 3, 0)
    with pytest.raises(ValueError, match="expected 4 in all"):
        cache.new_views(2)
