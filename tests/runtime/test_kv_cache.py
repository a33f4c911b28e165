"""The cache writes in place for one row, and copies for more, with the same result."""

from __future__ import annotations

import numpy as np
import pytest

from sparsevlm_trt.runtime.kv_cache import StageCache


def fill(cache, count, value):
    written = cache.new_views(count)
    for array in written.values():
        array[...] = value
    cache.advance(written)


@pytest.mark.parametrize("batch", [1, 3])
def test_entries_come_back_in_order(batch):
    cache = StageCache(range(4, 6), batch, 10, 8, np.float32)
    assert cache.views()["past_key_values.4.key"].shape == (batch, 0, 8)
    fill(cache, 3, 1.0)
    fill(cache, 1, 2.0)
    views = cache.views()
    assert list(views) == [
        f"past_key_values.{i}.{part}" for i in (4, 5) for part in ("key", "value")
    ]
    for view in views.values():
        assert view.flags.c_contiguous
        assert view[:, :, 0].tolist() == [[1.0, 1.0, 1.0, 2.0]] * batch


def test_one_row_is_neither_copied_in_nor_out():
    cache = StageCache([0], 1, 10, 8, np.float16)
    written = cache.new_views(2)
    written["new_key_values.0.key"][...] = 5
    cache.advance(written)
    assert np.shares_memory(
        cache.views()["past_key_values.0.key"], written["new_key_values.0.key"]
    )
    assert cache.views()["past_key_values.0.key"].tolist() == np.full((1, 2, 8), 5).tolist()
    assert cache.new_views(1)["new_key_values.0.key"].flags.c_contiguous


def test_used_and_reserved_bytes():
    cache = StageCache(range(2), 1, 10, 8, np.float16)
    fill(cache, 3, 0)
    assert cache.nbytes == 2 * 2 * 3 * 8 * 2
    assert cache.capacity_bytes == 2 * 2 * 10 * 8 * 2


def test_a_full_cache_says_so():
    cache = StageCache([0], 1, 4, 8, np.float32)
    fill(cache, 3, 0)
    with pytest.raises(ValueError, match="expected 4 in all"):
        cache.new_views(2)
