"""The controller: lowers before the target is missed, raises again, never leaves its range."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparsevlm_trt.runtime.serving.forecast import Forecast
from sparsevlm_trt.runtime.serving.pressure import PressureValve, Rung, pressure_ladder

BUDGETS = (192, 128, 96, 64)
LADDER = tuple(Rung(budget, None, budget) for budget in BUDGETS)


def adjust(valve, predicted, now):
    return valve.adjust(predicted, now).budget


def test_without_a_target_nothing_moves():
    valve = PressureValve(LADDER, None)
    assert [adjust(valve, 1e9, now) for now in range(5)] == [192] * 5


def test_it_goes_down_stepwise_and_up_again():
    valve = PressureValve(LADDER, 1.0)
    assert [adjust(valve, 2.0, float(now)) for now in range(4)] == [128, 96, 64, 64]
    assert valve.is_lowered
    adjust(valve, 2.0, 100.0)
    course = [adjust(valve, 0.1, 100.5 + 2 * step) for step in range(1, 6)]
    assert course == [96, 96, 128, 128, 192]
    assert not valve.is_lowered


def test_after_a_pause_nobody_is_answered_from_less():
    valve = PressureValve(LADDER, 1.0)
    for now in range(4):
        adjust(valve, 2.0, float(now))
    assert adjust(valve, 0.1, 60.0) == 192
    assert not valve.is_lowered


def test_between_its_two_bounds_it_rests():
    valve = PressureValve(LADDER, 1.0)
    valve.adjust(2.0, 0.0)
    assert [adjust(valve, 0.5, 10.0 * step) for step in range(1, 4)] == [128] * 3


@given(st.lists(st.tuples(st.floats(0, 10), st.floats(0, 5)), max_size=50))
def test_a_step_at_a_time_and_never_under_the_floor(course):
    valve, now, last = PressureValve(LADDER, 1.0), 0.0, 0
    for predicted, pause in course:
        now += pause
        level = BUDGETS.index(adjust(valve, predicted, now))
        assert last - 1 - pause // 3 <= level <= last + 1
        last = level


def test_the_forecast_counts_those_before():
    forecast = Forecast()
    assert forecast.first_token_s(5) == 0
    for _ in range(30):
        forecast.prefilled(0.2)
    assert forecast.first_token_s(0) == pytest.approx(0.2)
    assert forecast.first_token_s(4) == pytest.approx(1.0)
    for step in range(30):  # slots are full: one gets free every second
        forecast.taken(float(step), has_backlog=True)
    assert forecast.first_token_s(4) == pytest.approx(4.2, rel=0.01)


def test_an_idle_pause_is_no_interval():
    forecast = Forecast()
    forecast.taken(0.0, has_backlog=False)
    forecast.taken(1000.0, has_backlog=False)
    assert forecast.interval_s is None


def test_the_ladder_holds_what_the_bundle_can_follow(tiny_session):
    manifest = tiny_session.bundle.manifest
    own, whole = Rung(None, None, 9), Rung(None, "none", 16)
    assert pressure_ladder(manifest, 10**6) == (own,)
    assert pressure_ladder(manifest, 10**6, whole=True) == (whole, own)
    assert [rung.budget for rung in pressure_ladder(manifest, 1)] == [None, 5]
    assert [rung.budget for rung in pressure_ladder(manifest, 6)] == [None]


def test_under_pressure_the_response_and_the_metrics_say_so(serve, messages):
    with serve(target_ttft_s=1e-6, whole=True) as server:
        answers = [server.post(messages=messages(), max_tokens=2).json() for _ in range(2)]
        told = [answer["sparsevlm"] for answer in answers]
        assert (told[0]["method"], told[0]["budget_source"]) == ("none", "bundle")
        assert (told[1]["method"], told[1]["budget_source"]) == ("sparsevlm", "pressure")
        assert answers[1]["usage"]["visual_tokens_kept"] == 6
        own = server.post(messages=messages(), sparsevlm={"method": "none"}).json()
        assert own["sparsevlm"]["budget_source"] == "request"
        assert "sparsevlm:visual_budget 9.0" in server.get("/metrics").text
