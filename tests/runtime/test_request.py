from __future__ import annotations

from dataclasses import replace

import pytest

from sparsevlm_ops.methods import METHODS
from sparsevlm_ops.rank_rule import RankRule
from sparsevlm_ops.schedule import Schedule, average_visual_tokens, boundary_counts
from sparsevlm_trt.runtime.errors import InputError, PlanError
from sparsevlm_trt.runtime.pruning_plan import plan_pruning
from sparsevlm_trt.runtime.request import make_request


def test_the_bundles_plan_is_the_default(manifest):
    pruning = plan_pruning(manifest)
    assert pruning.method.name == "sparsevlm"
    assert pruning.schedule.as_dict() == {1: 7, 3: 4}


@pytest.mark.parametrize("schedule", ["3:4", {3: 4}, Schedule.of({3: 4})])
def test_a_schedule_in_any_form_may_use_some_boundaries(manifest, schedule):
    assert plan_pruning(manifest, schedule=schedule).schedule == Schedule.of({3: 4})


def test_method_none_takes_no_schedule(manifest):
    assert plan_pruning(manifest, method="none", budget=64).schedule is None


def test_a_budget_uses_the_boundaries_there_are(manifest):
    pruning = plan_pruning(manifest, budget=8, num_visual=12)
    assert pruning.schedule.layers == (1, 3)
    assert average_visual_tokens(pruning.schedule, 12, 6) == pytest.approx(8, abs=0.2)


def test_a_fraction_is_one_of_the_prompts_tokens(manifest):
    pruning = plan_pruning(manifest, budget=0.5)
    for num_visual in (12, 24, 1200):
        schedule = pruning.schedule_for(num_visual)
        average = average_visual_tokens(schedule, num_visual, 6)
        assert average == pytest.approx(num_visual / 2, rel=0.05)


def test_a_budget_below_what_the_boundaries_allow_says_where_to_cut(manifest):
    # Layer 0 sees all 1200.
    with pytest.raises(PlanError, match=r"budget 64 .* leave 2\d\d on average .* --budget 64"):
        plan_pruning(manifest, budget=64, num_visual=1200)


@pytest.mark.parametrize("method", ["fastv", "random", "uniform"])
@pytest.mark.parametrize("budget", [400, 300])
def test_a_budget_means_as_many_tokens_by_any_method(make_model, method, budget):
    manifest, _ = make_model((2,))
    kept = plan_pruning(manifest, budget=budget, num_visual=576).schedule.as_dict()[2]
    expected = boundary_counts(Schedule.of({2: kept}), 576)[0].num_out
    pruning = plan_pruning(manifest, method=method, budget=budget, num_visual=576)
    assert pruning.schedule.as_dict() == {2: expected}
    assert pruning.method.name == method


def test_another_method_matches_the_bundles_own_schedule(manifest):
    # 12 tokens: 7 and 1 merged of 5 dropped, then 4 and 1 merged of 4 dropped.
    random = plan_pruning(manifest, method="random").schedule
    assert random.as_dict() == {1: 8, 3: 5}
    assert "as sparsevlm by 1:7,3:4" in random.source
    # Layers 1 to 5 see 8, 8, 5, 5, 5.
    assert plan_pruning(manifest, method="fastv").schedule.as_dict() == {1: 6}


def test_the_plan_of_a_bundle_made_for_another_method(manifest):
    plan = replace(manifest.plan, method="random", schedule={1: 8})
    assert plan_pruning(replace(manifest, plan=plan)).schedule.as_dict() == {1: 8}


def test_a_spelled_schedule_is_followed_by_any_method_as_it_stands(manifest):
    for method in ("random", "uniform", "fastv"):
        assert plan_pruning(manifest, method=method, schedule="1:7,3:4").schedule.as_dict() == {
            1: 7,
            3: 4,
        }


def test_a_budget_that_loses_nothing_prunes_nothing(make_model):
    manifest, _ = make_model((2,))
    assert plan_pruning(manifest, method="random", budget=64).schedule is None


@pytest.mark.parametrize("budget", [0, -1, 1.0, 1.5])
def test_what_is_no_budget_is_refused(manifest, budget):
    with pytest.raises(PlanError, match="a whole number of tokens, or a fraction"):
        plan_pruning(manifest, budget=budget)


def with_methods(manifest, boundaries=(1, 3)):
    plan = replace(manifest.plan, methods=tuple(METHODS), boundaries=boundaries)
    return replace(manifest, plan=plan)


def test_by_rank_the_bundle_must_be_cut_for_it(manifest):
    # 2 is the one of the authors' layers that six layers reach.
    pruning = plan_pruning(with_methods(manifest, (1, 2, 3)), method="sparsevlm-adaptive")
    assert pruning.rank_rule == RankRule((2,), 13.5, 0.0)
    with pytest.raises(PlanError, match=r"cut after layers 1, 3 .* --boundaries 0,2"):
        plan_pruning(with_methods(manifest), method="sparsevlm-adaptive")


def test_scale_and_bias_or_the_authors_of_a_budget(manifest):
    bundle = with_methods(manifest, (2,))
    rules = [
        plan_pruning(bundle, method="sparsevlm-adaptive", **options).rank_rule
        for options in ({"budget": 128}, {"scale": 2.0}, {"scale": 1, "bias": 3})
    ]
    assert [(rule.scale, rule.bias) for rule in rules] == [(9, 6), (2, 0), (1, 3)]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"scale": 2.0}, "scale, bias .* with method 'sparsevlm'"),
        ({"num_heads": 14}, "num_heads .* expected with method 'sparsevlm\\+'"),
        ({"method": "sparsevlm+", "num_heads": 0}, "num_heads"),
        ({"method": "sparsevlm+", "num_heads": 1.5}, "num_heads"),
        ({"method": "sparsevlm-adaptive", "scale": -1}, "scale"),
        ({"method": "sparsevlm-adaptive", "scale": "x"}, "scale"),
        ({"method": "sparsevlm-adaptive", "scale": 2, "budget": 192}, "one of the two"),
        ({"positions": "kept"}, "compact, original"),
    ],
)
def test_options_of_a_method_that_cannot_be_used(manifest, options, words):
    with pytest.raises(InputError, match=words):
        plan_pruning(with_methods(manifest, (2,)), **options)


def test_positions_are_the_methods_way_unless_asked(manifest):
    bundle = with_methods(manifest)
    ways = {name: plan_pruning(bundle, method=name).is_compact for name in ("random", "fastv")}
    assert ways == {"random": True, "fastv": False}
    assert not plan_pruning(bundle, method="random", positions="original").is_compact


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"schedule": "2:5"}, "boundaries: 1, 3"),
        ({"schedule": "1:0"}, "count 0"),
        ({"schedule": "many"}, "LAYER:COUNT"),
        ({"schedule": {}}, "no pruning layer"),
        ({"schedule": {"one": 3}}, "schedule"),
        ({"method": "magic"}, "sparsevlm, fastv, random, uniform, none"),
        ({"budget": 64, "schedule": "1:3"}, "one of the two"),
    ],
)
def test_plans_that_the_bundle_cannot_follow(manifest, options, words):
    with pytest.raises(PlanError, match=words):
        plan_pruning(manifest, **options)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"max_new_tokens": 0}, "max_new_tokens"),
        ({"max_new_tokens": 2.5}, "max_new_tokens"),
        ({"temperature": -1.0}, "temperature"),
        ({"top_p": 2.0}, "top_p"),
        ({"stop": ["a", ""]}, "stop"),
        ({"stop_tokens": ["x"]}, "stop_tokens"),
        ({"max_tokens": 3, "do_sample": True}, "do_sample, max_tokens"),
        ({"replay": [["a"]]}, "replay"),
        ({"method_seed": -1}, "method_seed"),
        ({"method_seed": "one"}, "method_seed"),
        ({"stream": 3}, "stream"),
    ],
)
def test_options_that_cannot_be_used(manifest, options, words):
    with pytest.raises(InputError, match=words):
        make_request(manifest, options)


def test_one_stop_text_and_stop_tokens_of_any_kind(manifest):
    request = make_request(manifest, {"stop": "###", "stop_tokens": [2, 2]})
    assert request.stop == ("###",)
    assert request.stop_tokens == {2}
    assert make_request(manifest, {"stop_tokens": ()}).stop_tokens == frozenset()
