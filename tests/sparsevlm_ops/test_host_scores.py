import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparsevlm_ops.cells import block_grid
from sparsevlm_ops.host_scores import HOST_RULES, cell_scores, chance_scores
from sparsevlm_ops.methods import METHODS
from sparsevlm_ops.schedule import Schedule, boundary_counts

schedules = st.dictionaries(st.integers(0, 30), st.integers(1, 300), min_size=1, max_size=4).map(
    Schedule.of
)


def test_a_method_asks_the_host_or_the_model():
    for method in METHODS.values():
        assert (method.judge in HOST_RULES) == (method.judge in ("chance", "cells"))


@given(schedules, st.integers(0, 200), st.integers(0, 2**40))
def test_a_seed_draws_the_same_scores_again(schedule, num_visual, seed):
    steps = boundary_counts(schedule, num_visual, recycles=False)
    drawn, again = (chance_scores(steps, (1, num_visual), seed) for _ in range(2))
    assert [len(scores) for scores in drawn] == [step.num_in for step in steps if step.prunes]
    for scores, same in zip(drawn, again, strict=True):
        assert scores.dtype == np.float32
        assert np.array_equal(scores, same)
        assert ((scores >= 0) & (scores < 1)).all()


def test_seeds_and_boundaries_draw_apart():
    steps = boundary_counts(Schedule.of({2: 30, 6: 29}), 60, recycles=False)
    first, second = chance_scores(steps, (1, 60), 0)
    other, _ = chance_scores(steps, (1, 60), 1)
    assert not np.array_equal(first, other)
    assert not np.array_equal(first[:30], second)


def test_a_draw_does_not_depend_on_other_boundaries():
    alone = chance_scores(boundary_counts(Schedule.of({2: 30}), 60, False), (1, 60), 5)
    among = chance_scores(boundary_counts(Schedule.of({2: 30, 6: 9}), 60, False), (1, 60), 5)
    assert np.array_equal(alone[0], among[0])


def test_draws_are_even():
    # 400 draws of 10 of 40: each token is kept about 100 times, 5 standard deviations are 43.
    steps = boundary_counts(Schedule.of({2: 10}), 40, recycles=False)
    kept = np.zeros(40)
    for seed in range(400):
        kept[np.argsort(-chance_scores(steps, (1, 40), seed)[0])[:10]] += 1
    assert abs(kept - 100).max() < 43


@given(schedules, st.integers(0, 12), st.sampled_from([(3, 4), (1, 7), None]))
def test_cells_are_as_many_as_are_counted(schedule, num_images, image_grid):
    num_visual = num_images * (image_grid[0] * image_grid[1] if image_grid else 5)
    grid = block_grid(num_visual, image_grid)
    steps = boundary_counts(schedule, num_visual, pools=grid)
    scores = cell_scores(steps, grid, 0)
    pruning = [step for step in steps if step.prunes]
    for cells, step in zip(scores, pruning, strict=True):
        assert len(cells) == step.num_in
        assert sorted(set(cells.tolist())) == list(range(step.num_out))
        assert (step.num_kept, step.num_asked) == (0, step.num_out)


@pytest.mark.parametrize("rule", HOST_RULES.values())
def test_nothing_to_prune_is_nothing_to_score(rule):
    assert rule((), (0, 4), 0) == ()
