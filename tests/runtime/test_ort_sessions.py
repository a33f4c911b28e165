"""Sessions that runners share: one for a file and its settings, gone with the last runner."""

from __future__ import annotations

import gc
import weakref
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from sparsevlm_trt.runtime.ort_sessions import shared_session
from sparsevlm_trt.runtime.session import Session


class Opened:
    """Stands for a session of ONNX Runtime."""


@pytest.fixture
def graph(tmp_path):
    path = tmp_path / "graph.onnx"
    path.write_bytes(b"a graph")
    return path


def test_the_same_file_and_settings_are_opened_once(graph):
    first = shared_session(graph, "cpu", Opened)
    assert shared_session(graph, "cpu", Opened) is first


def test_other_settings_and_a_replaced_file_are_opened_anew(graph, tmp_path):
    first = shared_session(graph, "cpu", Opened)
    assert shared_session(graph, "cuda", Opened) is not first
    newer = tmp_path / "newer.onnx"
    newer.write_bytes(b"a longer graph")
    newer.replace(graph)
    assert shared_session(graph, "cpu", Opened) is not first


def test_it_goes_when_nobody_holds_it(graph):
    first = shared_session(graph, "cpu", Opened)
    seen = weakref.ref(first)
    del first
    gc.collect()
    assert seen() is None


def test_a_session_that_cannot_be_opened_leaves_nothing(graph):
    def fail():
        raise OSError("no")

    with pytest.raises(OSError, match="no"):
        shared_session(graph, "cpu", fail)
    assert isinstance(shared_session(graph, "cpu", Opened), Opened)


def test_two_sessions_answer_at_once_and_one_outlives_the_other(bundle_of):
    rng = np.random.default_rng(0)
    pictures = [rng.integers(0, 256, (32, 32, 3), np.uint8) for _ in range(3)]
    content = [{"type": "image"}, {"type": "text", "text": "What is this?"}]
    messages = [{"role": "user", "content": content}]

    def answer(session):
        return [
            session.generate(images=[picture], messages=messages, max_new_tokens=6).tokens
            for picture in pictures
        ]

    with Session.load(bundle_of()) as first:
        alone = answer(first)
        with Session.load(bundle_of()) as second, ThreadPoolExecutor(2) as pool:
            assert list(pool.map(answer, [first, second])) == [alone, alone]
        assert answer(first) == alone
