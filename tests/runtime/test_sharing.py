"""What runners share: made once, side by side where it may be, gone with its last holder."""

from __future__ import annotations

import gc
import threading
import time
import weakref
from concurrent.futures import ThreadPoolExecutor

import pytest

from sparsevlm_trt.runtime import graph_loading
from sparsevlm_trt.runtime.graph_loading import load_graphs
from sparsevlm_trt.runtime.sharing import Shared

PATIENCE = 20  # seconds; a thread that waits so long waits for ever


class Thing:
    """Something that can be held."""


def test_a_key_is_made_once_though_two_ask_at_a_time():
    shared, made = Shared(), []

    def make():
        made.append(Thing())
        return made[-1]

    with ThreadPoolExecutor(2) as pool:
        one, other = pool.map(lambda _: shared.get("key", make), range(2))
    assert one is other
    assert len(made) == 1


def test_different_keys_are_made_side_by_side():
    shared, both = Shared(), threading.Barrier(2, timeout=PATIENCE)

    def make():
        both.wait()  # passes only if two are in here at once
        return Thing()

    with ThreadPoolExecutor(2) as pool:
        one, other = pool.map(lambda key: shared.get(key, make), "ab")
    assert one is not other


def test_what_nobody_holds_is_made_again():
    shared = Shared()
    first = shared.get("key", Thing)
    seen = weakref.ref(first)
    del first
    gc.collect()
    assert seen() is None
    assert isinstance(shared.get("key", Thing), Thing)


def test_a_failure_leaves_nothing_behind():
    shared = Shared()
    with pytest.raises(ZeroDivisionError):
        shared.get("key", lambda: 1 / 0)
    assert isinstance(shared.get("key", Thing), Thing)


@pytest.mark.parametrize("cpus", [1, 2, 16])
def test_every_graph_is_loaded(monkeypatch, cpus):
    monkeypatch.setattr(graph_loading, "allowed_cpus", lambda: cpus)
    names, loaded = [f"stage_{n}" for n in range(9)], []
    load_graphs(names, loaded.append)
    assert sorted(loaded) == names


def test_the_first_failure_is_told_and_the_rest_is_not_begun(monkeypatch):
    monkeypatch.setattr(graph_loading, "allowed_cpus", lambda: 1)
    loaded = []

    def load(graph):
        loaded.append(graph)
        if graph == "b":
            raise OSError(f"no {graph}")
        if graph > "b":
            time.sleep(0.2)  # by then the failure is known

    with pytest.raises(OSError, match="no b"):
        load_graphs([*"abcdefgh"], load)
    assert loaded[:2] == ["a", "b"]
    assert len(loaded) <= 3  # the next one may have been taken up already
