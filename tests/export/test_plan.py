import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparsevlm_ops.schedule import AUTHORS_SCHEDULES, Schedule
from sparsevlm_trt.export.plan import PruningPlan, plan_stages
from sparsevlm_trt.runtime.errors import PlanError


def spans(num_layers, boundaries):
    return [(stage.first, stage.stop) for stage in plan_stages(num_layers, boundaries)]


def test_a_stage_ends_with_its_pruning_layer():
    assert spans(32, (2, 6, 15)) == [(0, 3), (3, 7), (7, 16), (16, 32)]
    assert [stage.graph for stage in plan_stages(32, (2, 6, 15))] == [
        "stage_0",
        "stage_1",
        "stage_2",
        "stage_3",
    ]


@given(
    st.integers(1, 64).flatmap(
        lambda n: st.tuples(st.just(n), st.sets(st.integers(0, max(n - 2, 0)), max_size=n - 1))
    )
)
def test_stages_cover_every_layer_once(case):
    num_layers, boundaries = case
    stages = spans(num_layers, sorted(boundaries))
    assert [i for first, stop in stages for i in range(first, stop)] == list(range(num_layers))
    assert all(first < stop for first, stop in stages)
    assert len(stages) == len(boundaries) + 1


@pytest.mark.parametrize("budget", sorted(AUTHORS_SCHEDULES))
def test_a_budget_is_the_authors_schedule(budget):
    plan = PruningPlan.make(32, budget=budget)
    assert plan.boundaries == (2, 6, 15, 19)  # the last one for requests that go by rank
    assert plan.schedule is not None
    assert plan.schedule.as_dict() == AUTHORS_SCHEDULES[budget]
    assert plan.budget == budget
    assert str(budget) in plan.source


@pytest.mark.parametrize("schedule", ["1:9,3:5", {1: 9, 3: 5}, Schedule.of({1: 9, 3: 5})])
def test_a_schedule_comes_before_a_budget(schedule):
    plan = PruningPlan.make(6, budget=192, schedule=schedule)
    assert plan.schedule == Schedule.of({1: 9, 3: 5})
    assert plan.boundaries == (1, 3)
    assert plan.budget is None
    assert plan.source == "given by the user"


@pytest.mark.parametrize("num_layers", [28, 36, 64])
def test_the_default_plan_comes_after_the_layers_that_a_tower_feeds(num_layers):
    assert PruningPlan.make(num_layers, num_deepstack=3).boundaries[0] >= 2


@pytest.mark.parametrize(
    "cuts", [{"schedule": "1:9,3:5"}, {"boundaries": [1, 2], "method": "none"}]
)
def test_pruning_before_a_fed_layer_is_refused(cuts):
    with pytest.raises(PlanError, match=r"after layer 1 \| expected layer 2 or later ones"):
        PruningPlan.make(6, num_deepstack=3, **cuts)
    PruningPlan.make(6, num_deepstack=2, **cuts)


def test_more_cuts_than_the_schedule_uses():
    plan = PruningPlan.make(6, schedule="3:5", boundaries=[3, 1, 1, 4])
    assert plan.boundaries == (1, 3, 4)
    assert plan.schedule is not None
    assert plan.schedule.layers == (3,)


def test_none_prunes_nothing_but_may_be_cut():
    plan = PruningPlan.make(6, method="none", budget=192, boundaries=[2])
    assert (plan.schedule, plan.budget, plan.boundaries) == (None, None, (2,))
    assert plan.source == "not pruned"
    assert PruningPlan.make(6, method="none").boundaries == ()


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"budget": 0}, "0"),
        ({"budget": -1}, "-1"),
        ({"budget": 1.5}, "0.33"),
        ({"budget": 192, "num_visual": 144}, "144"),
        ({"method": "sparsevlm-adaptive"}, "leave it to requests"),
        ({"method": "magic", "budget": 192}, "sparsevlm"),
        ({"schedule": "2:300,6"}, "'6'"),
        ({"schedule": "2:0"}, "count 0"),
        ({"schedule": {31: 5}}, "layer 31"),
        ({"schedule": {-1: 5}}, "-1"),
        ({"schedule": {40: 5}}, "layers 0 to 30"),
        ({"budget": 192, "boundaries": [2, 6, 15, 99]}, "99"),
        ({"method": "none", "boundaries": [31]}, "31"),
    ],
)
def test_what_a_model_cannot_follow_is_one_sentence(options, told):
    with pytest.raises(PlanError) as caught:
        PruningPlan.make(32, **options)
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)
    assert str(caught.value).count(" | ") >= 2


def test_a_model_of_another_depth_is_cut_at_the_same_depth():
    plan = PruningPlan.make(24, budget=192)
    assert plan.boundaries == (1, 4, 11, 14)
    assert plan.schedule is not None
    assert plan.schedule.layers == (1, 4, 11)
    assert PruningPlan.make(3, budget=192).boundaries == (0, 1)


def test_a_budget_uses_the_cuts_that_are_asked_for():
    plan = PruningPlan.make(32, budget=192, boundaries=[4, 20])
    assert plan.schedule is not None
    assert plan.schedule.layers == (4, 20)


def test_without_a_budget_it_is_192_or_a_third():
    assert PruningPlan.make(32).budget == 192
    assert PruningPlan.make(32, num_visual=144).budget == 48
