import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparsevlm_ops.schedule import (
    AUTHORS_SCHEDULES,
    Schedule,
    average_visual_tokens,
    boundary_counts,
    num_candidates,
    num_kept,
    num_merged,
    stage_visual_counts,
    visual_counts,
)

schedules = st.dictionaries(st.integers(0, 40), st.integers(1, 2000), min_size=1, max_size=6).map(
    Schedule.of
)


@given(schedules)
def test_spelling_reads_back(schedule):
    assert Schedule.parse(schedule.spell()) == schedule
    assert Schedule.of(schedule.as_dict()) == schedule


@given(schedules, st.integers(0, 3000), st.booleans())
def test_counts_add_up_at_every_boundary(schedule, num_visual, recycles):
    before = num_visual
    for step in boundary_counts(schedule, num_visual, recycles):
        assert step.num_in == before
        assert step.num_out == step.num_kept + step.num_merged
        assert step.num_merged <= step.num_candidates <= step.num_in - step.num_kept
        if before >= 2:
            assert 1 <= step.num_kept < before
            assert (step.num_merged > 0) == recycles
        before = step.num_out
    assert stage_visual_counts(schedule, num_visual, recycles)[-1] == before


@given(st.integers(1, 4999))
def test_counts_equal_the_authors_floating_point_ones(dropped):
    candidates = num_candidates(dropped)
    assert candidates == int(0.3 * dropped) + 1
    assert num_merged(candidates) == int(candidates / 10) + 1


def test_one_token_at_least_is_dropped():
    assert num_kept(300, 144) == 143
    assert num_kept(300, 576) == 300


@pytest.mark.parametrize(
    ("budget", "stages", "average"),
    [  # the authors' own counts for 576 visual tokens and 32 layers
        (192, (576, 309, 204, 113), 192.03),
        (128, (576, 312, 117, 39), 128.62),
        (96, (576, 249, 55, 27), 96.94),
        (64, (576, 82, 32, 18), 64.81),
    ],
)
def test_budgets_give_the_authors_counts(budget, stages, average):
    schedule = Schedule.from_budget(budget, 32)
    assert stage_visual_counts(schedule, 576) == stages
    assert average_visual_tokens(schedule, 576, 32) == pytest.approx(average, abs=0.01)


def test_a_pruning_layer_counts_with_its_output():
    assert visual_counts(Schedule.of({1: 4}), 10, 4) == (10, 5, 5, 5)


def test_fewer_than_two_visual_tokens_are_left_alone():
    schedule = Schedule.of({0: 3, 1: 2})
    assert stage_visual_counts(schedule, 1) == (1, 1, 1)
    assert stage_visual_counts(schedule, 0) == (0, 0, 0)


def test_a_budget_leaves_out_the_layers_a_model_has_not():
    assert Schedule.from_budget(192, 16).layers == (2, 6)
    assert Schedule.from_budget(192, 17).layers == (2, 6, 15)


@pytest.mark.parametrize("budget", [0, -1, 100])
def test_an_unknown_budget_is_answered_with_those_there_are(budget):
    known = ", ".join(str(number) for number in AUTHORS_SCHEDULES)
    with pytest.raises(ValueError, match=f"got {budget} .* one of: {known}"):
        Schedule.from_budget(budget, 32)


def test_a_model_too_short_for_a_budget_is_refused():
    with pytest.raises(ValueError, match="a model of 3 layers"):
        Schedule.from_budget(64, 3)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "the part ''"),
        ("2", "the part '2'"),
        ("2:", "the part '2:'"),
        ("2:300;6:200", "the part"),
        ("-2:300", "the part '-2:300'"),
        ("2:3.5", "the part"),
        ("6:200,2:300", "do not ascend"),
        ("2:300,2:200", "do not ascend"),
        ("2:0", "count 0 at layer 2"),
    ],
)
def test_a_wrong_spelling_says_what_is_wrong(text, problem):
    with pytest.raises(ValueError, match=problem):
        Schedule.parse(text)


def test_an_empty_schedule_is_refused():
    with pytest.raises(ValueError, match="no pruning layer"):
        Schedule.of({})


@pytest.mark.parametrize("layer", [31, 32])
def test_a_layer_without_a_next_one_is_refused(layer):
    with pytest.raises(ValueError, match="expected 0 to 30 for a model of 32 layers"):
        Schedule.of({2: 300, layer: 5}).check_layers(32)
