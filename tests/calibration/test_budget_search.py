"""The search on a model of 32 layers whose best schedule is known, and its parts."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparsevlm_ops.methods import get_method
from sparsevlm_ops.schedule import Schedule
from sparsevlm_trt.calibration.budget.choice import Choice
from sparsevlm_trt.calibration.budget.findings import Comparison, Measured, Target
from sparsevlm_trt.calibration.budget.first_token import share_of_time
from sparsevlm_trt.calibration.budget.page import budget_page
from sparsevlm_trt.calibration.budget.race import race
from sparsevlm_trt.calibration.budget.ranking import Ranking
from sparsevlm_trt.calibration.budget.report import Report
from sparsevlm_trt.calibration.budget.reporting import search_bundle
from sparsevlm_trt.calibration.budget.search import Search
from sparsevlm_trt.calibration.budget.sensitivity import (
    Sensitivity,
    SensitivityTable,
    never_rising,
)
from sparsevlm_trt.calibration.budget.space import Space
from sparsevlm_trt.calibration.budget.split import Halves, split_by_image
from sparsevlm_trt.calibration.samples import Samples
from sparsevlm_trt.runtime.bundle import Bundle
from sparsevlm_trt.runtime.errors import InputError, PlanError
from sparsevlm_trt.runtime.evaluation.answers import Answer
from sparsevlm_trt.runtime.evaluation.intervals import Interval, Score
from sparsevlm_trt.runtime.evaluation.job import Settings
from sparsevlm_trt.runtime.evaluation.paired import Difference
from sparsevlm_trt.runtime.evaluation.questions import Question, QuestionSet
from sparsevlm_trt.runtime.graph_spec import StageSpec
from sparsevlm_trt.runtime.manifest import Manifest, PlanSpec
from sparsevlm_trt.runtime.model_spec import ModelSpec, VisionSpec
from sparsevlm_trt.runtime.session import Session

VISUAL, TEXT = 576, 60
LAYERS = (2, 6, 15)


VISION = VisionSpec(
    num_visual=VISUAL,
    grid=(24, 24),
    image_size=(336, 336),
    image_token_id=4,
    hidden_size=8,
    intermediate_size=8,
    num_layers=1,
    num_positions=577,
)


def manifest_of(*layers: int) -> Manifest:
    """A 7B model that can prune after some layers."""
    cuts = [0, *(layer + 1 for layer in layers), 32]
    return Manifest(
        model=ModelSpec(
            source="llava",
            model_type="llava",
            text_model_type="llama",
            weights_sha256="",
            dtype="float16",
            num_layers=32,
            hidden_size=4096,
            intermediate_size=11008,
            num_heads=32,
            num_kv_heads=32,
            head_dim=128,
            vocab_size=32064,
            max_position=4096,
            tied_head=False,
        ),
        vision=None,
        plan=PlanSpec("sparsevlm", ("sparsevlm", "none"), layers, None, {}, "test"),
        stages=tuple(
            StageSpec(f"stage_{n}", first, stop)
            for n, (first, stop) in enumerate(itertools.pairwise(cuts))
        ),
        graphs={},
        links=(),
        files={},
        tools={},
    )


def space_of(*layers: int, method: str = "sparsevlm") -> Space:
    return Space(manifest_of(*layers), get_method(method), VISUAL, TEXT)


def question(number: int, image: int) -> Question:
    return Question(f"q{number}", number, Path(f"{image}.png"), f"{image}", f"{number}?", ("yes",))


class PlantedAsker:
    """Answers of a model whose loss is known: what each layer's steps cost, added up."""

    def __init__(self, space: Space, cost: dict[int, float]) -> None:
        self.space, self.cost = space, cost
        self.made: set[tuple[str, Choice | None]] = set()

    def loss(self, choice: Choice) -> float:
        total, before = 0.0, VISUAL
        for layer, count in choice.schedule.kept:
            total += self.cost[layer] * math.log(before / min(before, count))
            before = min(before, count)
        return total

    def losses(self, _phase, questions, choices):
        self.made |= {(one.id, choice) for one in questions for choice in (None, *choices)}
        hard = np.array([0.5 + (int(one.id[1:]) % 2) for one in questions])  # some feel it more
        return np.array([[self.loss(choice)] for choice in choices]).reshape(-1, 1) * hard

    def answers(self, _phase, questions, choices):
        def answer(one: Question, choice: Choice | None, loss: float) -> Answer:
            share = self.space.share(choice.schedule) if choice else 1.0
            return Answer(
                key="",
                id=one.id,
                config="",
                text="yes" if loss < 0.7 else "no",
                tokens=(),
                margins=(),
                finish_reason="stop",
                num_visual=VISUAL,
                num_text=TEXT,
                stages=(),
                kv_bytes=0,
                read_ms=100.0,
                prefill_ms=1000.0 * share,
                decode_ms=0.0,
                decisions=None,
            )

        rows = self.losses("", questions, choices)
        made = [[answer(one, None, 0.0) for one in questions]]
        for choice, row in zip(choices, rows, strict=True):
            made.append([answer(one, choice, x) for one, x in zip(questions, row, strict=True)])
        return made


def metric(one: Question, text: str) -> float:
    return float(text in one.answers)


def planted(
    cost: dict[int, float],
    target: Target,
    layers: tuple[int, ...] = LAYERS,
    methods: tuple[str, ...] = ("sparsevlm",),
    num: int = 60,
):
    space = space_of(*layers)
    spaces = [space_of(*layers, method=method) for method in methods]
    questions = tuple(question(number, number) for number in range(num))
    asker = PlantedAsker(space, cost)
    halves = Halves(questions[: 2 * num // 3], questions[2 * num // 3 :])
    return Search(spaces, space, asker, metric, halves).run(target), asker  # type: ignore[arg-type]


def test_a_layer_where_removal_costs_nothing_is_found_and_beats_the_default():
    # The authors prune after 2, 6 and 15; here all harm is done after 2.
    found, _ = planted({2: 2.0, 6: 0.0, 15: 0.05}, Target("flops", 0.5))
    assert 2 not in found.chosen.schedule.layers
    assert found.chosen.schedule.layers[0] == 6
    assert found.comparison.found.share <= 0.5
    assert found.comparison.default is not None
    assert found.comparison.default.share == pytest.approx(found.comparison.found.share, rel=0.01)
    assert found.comparison.loss_interval is not None
    assert found.comparison.loss_interval.high < 0
    assert "answers better than the default" in found.comparison.verdict
    assert found.chosen_role == "found"


def test_methods_are_chosen_among_and_held_against_the_bundles_own_rule():
    costs = {2: 2.0, 6: 0.0, 15: 0.05}
    found, _ = planted(costs, Target("flops", 0.5), methods=("fastv", "pyramiddrop"))
    assert set(found.sensitivity) == {"fastv", "pyramiddrop"}
    assert found.chosen.method in {"fastv", "pyramiddrop"}
    assert found.comparison.default is not None
    assert found.comparison.default.choice is not None
    assert found.comparison.default.choice.method == "sparsevlm"


def test_where_every_schedule_is_as_good_the_report_says_so():
    found, _ = planted({2: 0.0, 6: 0.0, 15: 0.0}, Target("flops", 0.5))
    assert found.comparison.difference is not None
    assert found.comparison.difference.mean == 0.0
    assert found.comparison.verdict.startswith("the default is as good at equal FLOPs")


def test_an_accuracy_is_reached_with_few_operations():
    found, _ = planted({2: 0.5, 6: 0.1, 15: 0.05}, Target("accuracy", 0.97))
    assert found.comparison.retained is not None
    assert found.comparison.retained.share >= 0.97
    dear, _ = planted({2: 5.0, 6: 1.0, 15: 0.5}, Target("accuracy", 0.97))
    assert found.limit < dear.limit < 1


def test_an_accuracy_that_nothing_reaches_is_refused():
    with pytest.raises(InputError, match=r"leaves .* at most .* expected 97\.0%"):
        planted({2: 99.0, 6: 99.0, 15: 99.0}, Target("accuracy", 0.97))


def test_a_time_to_the_first_token_becomes_a_share_of_the_operations():
    found, _ = planted({2: 0.5, 6: 0.1, 15: 0.05}, Target("ttft", 600.0))
    assert found.limit == pytest.approx(0.5)
    assert found.comparison.found.first_token_ms <= 600.0
    with pytest.raises(InputError, match="the cheapest schedule"):
        planted({2: 0.5, 6: 0.1, 15: 0.05}, Target("ttft", 110.0))


def test_300_questions_are_searched_in_2400_prefills():
    for layers in (1, 2, 6, 15), (1, 2, 4, 6, 10, 15):
        cost = {layer: 1 / layer for layer in layers}
        _, asker = planted(cost, Target("flops", 0.5), layers, num=300)
        assert len(asker.made) < 2400


def test_of_many_boundaries_three_are_used():
    layers = (1, 2, 4, 6, 10, 15, 20, 25)
    found, _ = planted({layer: 1 / layer for layer in layers}, Target("flops", 0.5), layers)
    assert 1 <= len(found.chosen.schedule.kept) <= 3


def test_the_page_of_a_search_stands_alone_and_tells_the_chosen_schedule():
    found, _ = planted({2: 0.5, 6: 0.1, 15: 0.05}, Target("flops", 0.5))
    report = Report("a<b", "0" * 64, "q", "1" * 64, "auto", "r", "cpu", 0, 20, ("few",), found)
    page = budget_page(report)
    assert found.chosen.label in page
    assert "a&lt;b" in page
    assert "src=" not in page
    assert "href=" not in page
    assert page.count("<svg viewBox") == 2


@pytest.mark.parametrize("method", ["sparsevlm", "fastv"])
def test_every_schedule_is_enumerated_at_its_true_cost(method):
    space = space_of(*LAYERS, method=method)
    groups = list(space.groups())
    levels = len(space.kept)
    assert [len(group.boundaries) for group in groups] == [1, 1, 1, 2, 2, 2, 3]
    sizes = [math.comb(levels, len(group.boundaries)) for group in groups]
    assert [len(group.share) for group in groups] == sizes
    random = np.random.default_rng(0)
    for group in groups:
        for number in random.integers(0, len(group.share), 5):
            schedule = space.schedule(group, int(number))
            assert group.share[number] == pytest.approx(space.share(schedule), rel=1e-12)


def test_the_best_under_a_limit_is_what_trying_all_finds():
    space = space_of(2, 15)
    measures = [
        Sensitivity(layer, kept, cost * math.log(VISUAL / kept))
        for layer, cost in ((2, 0.3), (15, 0.2))
        for kept in (288, 115, 46, 17)
    ]
    table = SensitivityTable(space, measures)
    best = Ranking([space], [table]).best(0.5, 1)[0]
    everything = [
        (float(loss), space.schedule(group, number))
        for group in space.groups()
        for number, (loss, share) in enumerate(zip(table.predict(group), group.share, strict=True))
        if share <= 0.5
    ]
    assert best.loss == pytest.approx(min(loss for loss, _ in everything))
    assert 0.49 < best.share <= 0.5


def test_tokens_that_go_later_cost_what_they_cost_later():
    space = space_of(2, 15)
    measures = [Sensitivity(2, 17, 2.0), Sensitivity(15, 17, 0.4)]
    table = SensitivityTable(space, measures)
    group = next(group for group in space.groups() if len(group.boundaries) == 2)
    number = len(group.levels) // 2
    (first, second) = group.levels[number]
    alone, later = table.loss
    expected = alone[first] + later[second] - later[first]
    assert table.predict(group)[number] == pytest.approx(expected)
    assert alone[first] < expected < alone[second]


@given(st.lists(st.floats(-5, 5), min_size=1, max_size=12))
def test_a_fitted_curve_never_rises_and_keeps_the_mean(values):
    fitted = never_rising(values)
    assert (np.diff(fitted) <= 1e-9).all()
    assert fitted.mean() == pytest.approx(np.mean(values), abs=1e-9)


@pytest.mark.parametrize("share", [0.3, 0.46, 0.7])
def test_the_default_is_the_budget_rule_at_equal_operations(share):
    space = space_of(*LAYERS)
    default = space.default(share)
    assert default is not None
    assert default.layers == LAYERS
    assert space.share(default) == pytest.approx(share, rel=0.02)


def test_counts_are_scaled_up_to_the_limit():
    space = space_of(*LAYERS)
    schedule = Schedule.of({2: 200, 15: 20})
    limit = space.share(schedule) + 0.05
    filled = space.filled(schedule, limit)
    assert limit - 0.01 < space.share(filled) <= limit
    assert filled.kept[0][1] / filled.kept[1][1] == pytest.approx(10, rel=0.05)


def test_neighbours_shift_tokens_between_layers_at_equal_operations():
    space = space_of(*LAYERS)
    schedule = Schedule.of({2: 300, 6: 200, 15: 110})
    limit = space.share(schedule)
    near = space.neighbours(schedule, limit)
    assert len(near) == 6
    assert schedule not in near
    for one in near:
        assert limit - 0.01 < space.share(one) <= limit
    first = {one.kept[0][1] for one in near}
    assert min(first) < 300 < max(first)


def test_counts_that_cannot_be_scaled_to_a_limit_are_given_up():
    assert space_of(15).filled(Schedule.of({15: 100}), 0.1) is None
    assert space_of(2, 15).filled(Schedule.of({2: 3, 15: 2}), 0.99) == Schedule.of({2: 12, 15: 8})


def test_a_race_asks_the_better_half_more_and_finds_the_best():
    asked = []
    truth = np.random.default_rng(0).normal(np.arange(8)[:, None] / 2, 0.5, (8, 100))

    def losses(field, num):
        asked.append((len(field), num))
        return truth[list(field), :num]

    placed = race(list(range(8)), losses, 100, first=10)
    assert placed[0].contender == 0
    assert sorted(one.contender for one in placed) == list(range(8))
    assert asked == [(8, 10), (4, 20), (2, 100)]
    assert [one.num for one in placed] == [100, 100, 20, 20, 10, 10, 10, 10]


def test_the_first_wins_a_tie():
    placed = race(["a", "b"], lambda field, num: np.zeros((len(field), num)), 5)
    assert placed[0].contender == "a"


def test_halves_share_no_image_and_do_not_depend_on_the_order():
    questions = [question(number, number // 3) for number in range(60)]
    halves = split_by_image(questions)
    images = [{one.image_sha256 for one in half} for half in (halves.search, halves.heldout)]
    assert not images[0] & images[1]
    assert len(halves.search) == len(halves.heldout) == 30
    assert split_by_image(questions[::-1]) == halves
    assert split_by_image(questions, seed=1) != halves


def test_times_make_a_line():
    assert share_of_time(600, [1.0, 0.5, 0.25], [1100, 600, 350]) == pytest.approx(0.5)
    # Dearer by the token as prompts grow: between its neighbours, not on a line through all.
    bent = share_of_time(900, [1.0, 0.3, 0.6], [1500, 600, 1000])
    assert bent == pytest.approx(0.525)
    with pytest.raises(InputError, match="do not grow"):
        share_of_time(600, [1.0, 0.5], [500, 600])
    with pytest.raises(InputError, match="unpruned model takes 1100 ms"):
        share_of_time(2000, [1.0, 0.5], [1100, 600])


@pytest.mark.parametrize(
    ("ours", "theirs", "told"),
    [
        (18, 4, "the found schedule answers better"),
        (4, 18, "the default answers better"),
        (10, 10, "the default is as good"),
    ],
)
def test_the_verdict_says_who_is_ahead_beyond_chance(ours, theirs, told):
    def scores(right):
        return np.array([1.0] * right + [0.0] * (20 - right))

    one = Measured("found", None, 0.5, Score.of(scores(ours)), 0.0, Interval(0, 0), 1.0)
    difference = Difference.of(scores(ours), scores(theirs)[:: 1 if ours != theirs else -1])
    verdict = Comparison(one, one, one, difference, 0.0, Interval(-1, 1), None, None).verdict
    assert verdict.startswith(told)


@pytest.mark.parametrize(
    ("layers", "vision", "told"),
    [((), True, "has no boundary"), (LAYERS, False, "has no vision tower")],
)
def test_a_bundle_that_cannot_prune_is_refused(tmp_path, layers, vision, told):
    manifest = replace(manifest_of(*layers), vision=VISION if vision else None)
    samples = Samples(QuestionSet("q", "0", (question(1, 1), question(2, 2)), ()), ())
    with pytest.raises(PlanError, match=told):
        search_bundle(
            Bundle(tmp_path, manifest),
            samples,
            Target("flops", 0.5),
            None,
            Settings("0"),
            tmp_path,
            Session,  # type: ignore[arg-type]
            metric=metric,
            metric_name="auto",
        )
