from __future__ import annotations

import numpy as np
import pytest
from data import CELL, CELL_NAMES, KINDS, DigitSamples, make_scene
from hypothesis import given, settings
from hypothesis import strategies as st
from make_questions import pick


def _ink(brightness: int) -> DigitSamples:
    """Ten equal blocks of ink, one for each digit."""
    pixels = np.zeros((10, 28, 28), np.uint8)
    pixels[:, 6:22, 6:22] = brightness
    return DigitSamples(pixels, np.arange(10, dtype=np.uint8))


SAMPLES = _ink(240)


def test_a_scene_is_a_function_of_seed_split_and_index() -> None:
    first = make_scene(SAMPLES, 3, "train", 7)
    again = make_scene(SAMPLES, 3, "train", 7)
    assert np.array_equal(first.pixels, again.pixels)
    assert first.questions == again.questions


@pytest.mark.parametrize("other", [(4, "train", 7), (3, "heldout", 7), (3, "train", 8)])
def test_seed_split_and_index_each_change_the_scene(other: tuple[int, str, int]) -> None:
    first = make_scene(SAMPLES, 3, "train", 7)
    assert not np.array_equal(first.pixels, make_scene(SAMPLES, *other).pixels)


@settings(max_examples=20, deadline=None)
@given(index=st.integers(0, 10**6))
def test_digits_colors_and_cells_are_distinct_and_boxes_lie_in_their_cell(index: int) -> None:
    scene = make_scene(SAMPLES, 0, "heldout", index)
    assert scene.pixels.shape == (336, 336, 3)
    assert 4 <= len(scene.objects) <= 6
    for values in zip(*((o.digit, o.color, o.region) for o in scene.objects), strict=True):
        assert len(set(values)) == len(values)
    for item in scene.objects:
        left, top, right, bottom = item.box
        assert item.column * CELL <= left < right <= (item.column + 1) * CELL
        assert item.row * CELL <= top < bottom <= (item.row + 1) * CELL
        assert item.region == CELL_NAMES[item.row][item.column]


@settings(max_examples=20, deadline=None)
@given(index=st.integers(0, 10**6))
def test_answers_follow_from_the_objects(index: int) -> None:
    scene = make_scene(SAMPLES, 0, "heldout", index)
    by_color = {o.color: o for o in scene.objects}
    by_digit = {str(o.digit): o for o in scene.objects}
    assert len({q.text for q in scene.questions}) == len(scene.questions)
    for question in scene.questions:
        words = question.text.rstrip("?").split()
        named = [w for w in words if w in by_color or w in by_digit]
        if question.kind == "exists":
            assert question.answer == ("yes" if named else "no")
            continue
        item = by_color.get(named[0]) or by_digit[named[0]]
        expected = {"digit": str(item.digit), "color": item.color, "where": item.region}
        assert question.answer == expected[question.kind]
        assert question.box == item.box


def test_yes_and_no_are_asked_equally_often() -> None:
    answers = [q.answer for q in make_scene(SAMPLES, 0, "train", 1).questions]
    assert answers.count("yes") == answers.count("no") == 2


def test_the_picture_shows_only_the_samples_it_was_given() -> None:
    bright = make_scene(SAMPLES, 0, "train", 5)
    dim = make_scene(_ink(180), 0, "train", 5)
    assert bright.questions == dim.questions
    assert bright.pixels.max() > dim.pixels.max()


def test_picked_questions_take_the_kinds_in_turn() -> None:
    scene = make_scene(SAMPLES, 0, "heldout", 2)
    chosen = pick(scene, 8, np.random.default_rng(0))
    assert [q.kind for q in chosen] == list(KINDS) * 2
    assert len({q.text for q in chosen}) == 8
