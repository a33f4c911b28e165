from __future__ import annotations

import time

import numpy as np

from sparsevlm_trt.runtime.trace import Clock, follow_patches, grid_positions


def test_patches_are_followed_through_two_steps():
    first = follow_patches(np.arange(6), np.array([1, 4, 5]), 1)
    assert first.tolist() == [1, 4, 5, -1]
    assert follow_patches(first, np.array([0, 2, 3]), 2).tolist() == [1, 5, -1, -1, -1]


def test_grid_positions_are_rows_and_columns():
    positions = grid_positions(np.array([0, 5, -1, 11, 13]), (3, 4))
    assert positions.tolist() == [[0, 0], [1, 1], [-1, -1], [2, 3], [3, 1]]


def test_a_lap_tells_the_host_from_the_graphs():
    clock = Clock()
    started = time.perf_counter()
    time.sleep(0.02)
    clock.add("stage_0", started)
    time.sleep(0.01)
    wall, host = clock.lap()
    assert 29 < wall < 500
    assert 9 < host < wall - 19
    assert clock.steps == []
