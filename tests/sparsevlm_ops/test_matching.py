import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparsevlm_ops.cells import block_grid
from sparsevlm_ops.matching import equal_schedule
from sparsevlm_ops.methods import METHODS, get_method
from sparsevlm_ops.schedule import (
    BUDGETS,
    Schedule,
    average_visual_tokens,
    budget_source,
    visual_counts,
)

LAYERS = 32
schedules = st.dictionaries(st.integers(0, 30), st.integers(1, 700), min_size=1, max_size=5).map(
    Schedule.of
)
GRIDS = [(24, 24), (12, 12), (16, 36)]


@given(schedules, st.integers(1, 700))
def test_random_leaves_as_many_tokens_as_sparsevlm_in_every_layer(schedule, num_visual):
    equal = equal_schedule(schedule, get_method("random"), num_visual, LAYERS)
    theirs = visual_counts(schedule, num_visual, LAYERS)
    if equal is None:
        assert set(theirs) == {num_visual}
    else:
        assert visual_counts(equal, num_visual, LAYERS, recycles=False) == theirs


@given(schedules, st.integers(1, 700))
def test_fastv_prunes_once_to_the_same_average(schedule, num_visual):
    equal = equal_schedule(schedule, get_method("fastv"), num_visual, LAYERS)
    theirs = average_visual_tokens(schedule, num_visual, LAYERS)
    if equal is None:
        assert theirs >= num_visual - 0.5
        return
    assert equal.layers == schedule.layers[:1]
    ours = average_visual_tokens(equal, num_visual, LAYERS, recycles=False)
    assert abs(ours - theirs) <= 0.5  # a whole number of tokens in each layer after it


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("budget", BUDGETS)
def test_uniform_is_as_near_as_a_grid_allows(budget, grid):
    num_visual, uniform = grid[0] * grid[1], get_method("uniform")
    schedule = Schedule.from_budget(budget, LAYERS)
    equal = equal_schedule(schedule, uniform, num_visual, LAYERS)
    assert equal is not None
    theirs = average_visual_tokens(schedule, num_visual, LAYERS)
    pools = block_grid(num_visual, grid)
    ours = average_visual_tokens(equal, num_visual, LAYERS, pools=pools)
    assert ours == pytest.approx(theirs, rel=0.05)


@pytest.mark.parametrize("budget", BUDGETS)
def test_the_true_averages_of_a_budget_are_those_of_the_documentation(budget):
    documented = {  # docs/methods.md
        192: {"sparsevlm": 192.0, "fastv": 191.6, "random": 192.0, "uniform": 191.4},
        128: {"sparsevlm": 128.6, "fastv": 128.8, "random": 128.6, "uniform": 129.2},
        96: {"sparsevlm": 96.9, "fastv": 96.9, "random": 96.9, "uniform": 97.5},
        64: {"sparsevlm": 64.8, "fastv": 65.1, "random": 64.8, "uniform": 64.7},
        32: {"sparsevlm": 51.8, "fastv": 51.9, "random": 51.8, "uniform": 51.5},
    }
    table = Schedule.from_budget(budget, LAYERS)
    for name, average in documented[budget].items():
        method = METHODS[name]
        schedule = equal_schedule(table, method, 576, LAYERS)
        assert schedule is not None
        pools = (24, 24) if method.pools else None
        found = average_visual_tokens(schedule, 576, LAYERS, method.recycles, pools)
        assert found == pytest.approx(average, abs=0.051), name


@pytest.mark.parametrize("method", ["fastv", "random", "uniform"])
def test_where_sparsevlm_loses_nothing_nothing_is_pruned(method):
    table = Schedule.from_budget(192, LAYERS)
    assert equal_schedule(table, get_method(method), 16, LAYERS) is None


def test_sparsevlm_takes_a_schedule_as_it_is():
    schedule = Schedule.from_budget(96, LAYERS)
    assert equal_schedule(schedule, get_method("sparsevlm"), 576, LAYERS) is schedule


def test_where_the_numbers_come_from_is_told():
    assert budget_source(64) == "SparseVLM v1.5, table for 64 tokens"
    assert budget_source(32).startswith("ours: half of")
    table = Schedule.from_budget(32, LAYERS)
    assert table.source == budget_source(32)
    random = equal_schedule(table, get_method("random"), 576, LAYERS)
    assert random is not None
    assert random.source == f"as many tokens as sparsevlm by 2:33,6:15,15:8; {table.source}"
    assert Schedule.parse("2:3").source == "given by the user"


def test_half_of_64_is_what_32_means():
    assert BUDGETS[32] == {2: 33, 6: 15, 15: 8}
