"""The queue is bounded, takes clients in turn, and loses nobody."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparsevlm_trt.runtime.serving.ticket import Ticket
from sparsevlm_trt.runtime.serving.waiting import WaitingRoom


def ticket(number, client):
    return Ticket(number, client, [], [], settle=None, deliver=None, deadline=1e18)


def test_a_client_with_many_requests_does_not_hold_up_the_others():
    room = WaitingRoom(20)
    for number in range(10):
        room.add(ticket(number, "loud"))
    room.add(ticket(10, "quiet"))
    taken = [room.take().number for _ in range(3)]
    assert 10 in taken[:2]


def test_a_full_room_turns_away():
    room = WaitingRoom(1)
    room.add(ticket(0, "a"))
    assert room.is_full
    with pytest.raises(ValueError, match="queue"):
        room.add(ticket(1, "b"))


@given(st.lists(st.sampled_from("abc"), max_size=30), st.data())
def test_each_leaves_once_and_in_its_clients_order(clients, data):
    room = WaitingRoom(30)
    for number, client in enumerate(clients):
        room.add(ticket(number, client))
    gone = set(data.draw(st.sets(st.integers(0, 29))))
    removed = room.remove(lambda each: each.number in gone)
    taken = []
    while (each := room.take()) is not None:
        taken.append(each)
        assert len(room) == len(clients) - len(removed) - len(taken)
    numbers = sorted(each.number for each in taken + removed)
    assert numbers == list(range(len(clients)))
    for client in "abc":
        own = [each.number for each in taken if each.client == client]
        assert own == sorted(own)


@given(st.lists(st.sampled_from("abcd"), min_size=1, max_size=40))
def test_nobody_waits_for_more_than_one_of_each_other(clients):
    room = WaitingRoom(40)
    for number, client in enumerate(clients):
        room.add(ticket(number, client))
    first = {}
    for position in range(len(clients)):
        first.setdefault(room.take().client, position)
    assert max(first.values()) < len(set(clients))
