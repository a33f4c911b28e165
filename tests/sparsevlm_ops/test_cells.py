import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparsevlm_ops.cells import LONGEST, block_grid, cell_numbers, coarser_grid, poolings

grids = st.tuples(st.integers(1, 30), st.integers(1, 30))


@given(grids, st.integers(1, 1000))
def test_a_coarser_grid_fits_in_the_finer_one(grid, requested):
    rows, columns = coarser_grid(grid, requested, grid)
    assert 1 <= rows <= grid[0]
    assert 1 <= columns <= grid[1]
    if requested >= grid[0] * grid[1]:
        assert (rows, columns) == grid


@given(grids, st.integers(1, 30), st.integers(1, 30))
def test_cells_are_runs_that_differ_by_one_at_most(grid, rows, columns):
    after = (min(rows, grid[0]), min(columns, grid[1]))
    numbers = cell_numbers(grid, after)
    assert sorted(set(numbers)) == list(range(after[0] * after[1]))
    first_row = numbers[: grid[1]]
    assert first_row == sorted(first_row)
    widths = [first_row.count(cell) for cell in range(after[1])]
    assert max(widths) - min(widths) <= 1
    # Every row is cut alike: only the row of cells differs.
    for row in range(grid[0]):
        start = (row * after[0] // grid[0]) * after[1]
        assert numbers[row * grid[1] : (row + 1) * grid[1]] == [start + n for n in first_row]


def test_halving_pools_squares_of_four():
    assert cell_numbers((4, 4), (2, 2)) == [0, 0, 1, 1, 0, 0, 1, 1, 2, 2, 3, 3, 2, 2, 3, 3]


@pytest.mark.parametrize(
    ("requested", "after"),
    [
        (309, (14, 22)),
        (204, (12, 17)),
        (113, (8, 14)),  # 113 is prime
        (82, (9, 9)),
        (32, (4, 8)),
        (23, (4, 6)),  # not (1, 23): that would pool whole columns
        (1, (1, 1)),
    ],
)
def test_the_nearest_grid_with_cells_that_are_no_strips(requested, after):
    assert coarser_grid((24, 24), requested, (24, 24)) == after
    assert max(after) / min(after) <= LONGEST


@given(st.integers(1, 300), st.integers(1, 300))
def test_a_row_of_tokens_is_pooled_to_what_is_asked(num_visual, requested):
    row = block_grid(num_visual, None)
    assert coarser_grid(row, requested, row) == (1, min(requested, num_visual))


@given(grids, st.lists(st.integers(1, 400), min_size=1, max_size=4))
def test_boundaries_follow_on_each_other(first, wanted):
    steps = poolings(enumerate(wanted), first)
    assert steps[0].before == first
    for before, after in itertools.pairwise(steps):
        assert after.before == before.after
        assert after.num_in == before.num_out
    # Asked for what they make, they make the same: counts and cells cannot drift apart.
    assert poolings(((step.layer, step.num_out) for step in steps), first) == steps


def test_images_of_a_block_lie_below_each_other():
    assert block_grid(16, (4, 4)) == (4, 4)
    assert block_grid(48, (4, 4)) == (12, 4)
    assert block_grid(17, (4, 4)) == (1, 17)
    assert block_grid(0, (4, 4)) == (0, 4)
    assert block_grid(9, None) == (1, 9)
