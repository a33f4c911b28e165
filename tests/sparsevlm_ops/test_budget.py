import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from sparsevlm_ops.budget import (
    AUTHORS_PLUS_SCHEDULES,
    budget_layers,
    budget_schedule,
    budget_tokens,
)
from sparsevlm_ops.budget_profile import authors_profile
from sparsevlm_ops.methods import METHODS
from sparsevlm_ops.placement import placed_layers
from sparsevlm_ops.schedule import AUTHORS_SCHEDULES, average_visual_tokens

RULED = ["sparsevlm", "sparsevlm+", "random"]


@pytest.mark.parametrize("budget", AUTHORS_SCHEDULES)
def test_the_authors_tables_hold_on_their_model(budget):
    assert budget_schedule(budget, "sparsevlm", 576, 32).as_dict() == AUTHORS_SCHEDULES[budget]
    plus = budget_schedule(budget, "sparsevlm+", 576, 32, (2, 6, 15, 19))
    assert plus.as_dict() == AUTHORS_PLUS_SCHEDULES[budget]
    assert average_visual_tokens(plus, 576, 32, recycles=False) == pytest.approx(budget, rel=0.013)


@settings(deadline=None, max_examples=150)
@given(
    st.integers(100, 6000),
    st.integers(8, 80),
    st.floats(0.08, 0.9),
    st.sampled_from(RULED),
)
def test_any_other_model_gets_the_nominal_average(num_visual, num_layers, share, name):
    assume((num_visual, num_layers) != (576, 32))
    schedule = budget_schedule(share, name, num_visual, num_layers)
    recycles = METHODS[name].recycles
    average = average_visual_tokens(schedule, num_visual, num_layers, recycles)
    assert average == pytest.approx(share * num_visual, rel=0.02)
    counts = [count for _, count in schedule.kept]
    assert counts == sorted(counts, reverse=True)
    assert schedule.layers[-1] <= num_layers - 2


@settings(deadline=None, max_examples=60)
@given(st.integers(20, 900), st.sampled_from([(2880, 32), (576, 24), (729, 28), (2048, 40)]))
def test_a_number_of_tokens_is_an_average_too(budget, model):
    num_visual, num_layers = model
    schedule = budget_schedule(budget, "sparsevlm+", num_visual, num_layers)
    if budget >= num_visual:
        assert schedule is None
        return
    found = average_visual_tokens(schedule, num_visual, num_layers, recycles=False)
    assert found == pytest.approx(budget, rel=0.02)


def test_layers_lie_at_the_authors_depth():
    assert placed_layers((2, 6, 15, 19), 32) == (2, 6, 15, 19)
    assert placed_layers((2, 6, 15), 24) == (1, 4, 11)
    assert placed_layers((2, 6, 15), 40) == (3, 8, 19)
    assert placed_layers((2, 6, 15), 2) == (0,)
    assert placed_layers((2, 6, 15), 1) == ()


def test_a_small_budget_moves_the_first_boundary_forward():
    assert budget_layers(192, 576, 32) == (2, 6, 15)
    # Two layers of 2880 tokens are 180 of an average of 192 already.
    assert budget_layers(192, 2880, 32) == (1, 6, 15)
    assert budget_layers(64, 2880, 32) == (0, 6, 15)


def test_a_budget_of_all_tokens_prunes_nothing():
    assert budget_schedule(192, "sparsevlm", 144, 30) is None


def test_a_budget_below_what_the_cuts_allow_is_refused():
    with pytest.raises(ValueError, match=r"budget 64 .* 2, 6, 15.* cuts after 0, 6, 15"):
        budget_schedule(64, "sparsevlm", 2880, 32, (2, 6, 15))


@pytest.mark.parametrize("budget", [0, -3, 1.5, 0.0, 1.0, True, "192"])
def test_what_is_no_budget_is_refused(budget):
    with pytest.raises(ValueError, match="expected a whole number of tokens, or a fraction"):
        budget_tokens(budget, 576)


def test_between_the_tables_a_budget_has_their_proportions():
    near = budget_schedule(100, "sparsevlm", 576, 32).as_dict()
    low, high = AUTHORS_SCHEDULES[96], AUTHORS_SCHEDULES[128]
    assert all(low[layer] - 3 <= near[layer] <= high[layer] + 3 for layer in low)


@pytest.mark.parametrize("budget", AUTHORS_SCHEDULES)
def test_two_layers_fewer_change_little(budget):
    counts = budget_schedule(budget, "sparsevlm", 576, 30).as_dict().values()
    table = AUTHORS_SCHEDULES[budget].values()
    assert list(counts) == pytest.approx(list(table), rel=0.2)


def test_a_profile_is_a_table_where_there_is_one():
    for budget, kept in AUTHORS_SCHEDULES.items():
        profile = authors_profile(budget / 576, AUTHORS_SCHEDULES)
        assert [share * 576 for share in profile] == pytest.approx(list(kept.values()))
