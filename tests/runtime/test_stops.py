"""Stop strings end the text wherever the pieces are cut."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsevlm_trt.runtime.errors import InputError
from sparsevlm_trt.runtime.stops import StopMatcher


def run(stops, pieces):
    matcher = StopMatcher.of(stops)
    shown = [matcher.feed(piece) for piece in pieces]
    return "".join([*shown, matcher.finish()]), matcher.found


def plainly(stops, text):
    """The same rule, one character at a time over the whole text."""
    for end in range(1, len(text) + 1):
        done = [stop for stop in stops if text[:end].endswith(stop)]
        if done:
            longest = max(done, key=len)
            return text[: end - len(longest)], longest
    return text, None


@settings(max_examples=300, deadline=None)
@given(
    stops=st.lists(st.text("ab\n", min_size=1, max_size=4), max_size=3),
    pieces=st.lists(st.text("ab\n", max_size=5), max_size=8),
)
def test_the_cut_does_not_matter(stops, pieces):
    assert run(stops, pieces) == plainly(stops, "".join(pieces))


@settings(max_examples=100, deadline=None)
@given(
    stops=st.lists(st.text("ab", min_size=1, max_size=4), min_size=1, max_size=3),
    pieces=st.lists(st.text("ab", min_size=1, max_size=3), max_size=8),
)
def test_nothing_is_shown_that_could_still_become_a_stop_string(stops, pieces):
    matcher, shown, seen = StopMatcher.of(stops), "", ""
    for piece in pieces:
        shown, seen = shown + matcher.feed(piece), seen + piece
        if matcher.found:
            break
        held = seen[len(shown) :]
        assert seen.startswith(shown)
        assert held == "" or any(stop.startswith(held) for stop in stops)


def test_a_stop_string_across_three_pieces():
    matcher = StopMatcher.of("###")
    assert [matcher.feed(piece) for piece in ("Hi #", "#", "#x", "more")] == ["Hi ", "", "", ""]
    assert matcher.found == "###"
    assert matcher.finish() == ""


def test_a_near_miss_is_shown_once_it_cannot_match():
    matcher = StopMatcher.of(["\n\nUSER:"])
    assert matcher.feed("one\n\nUS") == "one"
    assert matcher.feed("A") == "\n\nUSA"
    assert matcher.feed("\n") == ""
    assert matcher.finish() == "\n"


def test_without_stops_all_passes():
    assert run((), ["a", "b"]) == ("ab", None)


@pytest.mark.parametrize("bad", ["", [""], ["a", ""], [3]])
def test_an_empty_stop_string_is_refused(bad):
    with pytest.raises(InputError, match="at least one character"):
        StopMatcher.of(bad)
