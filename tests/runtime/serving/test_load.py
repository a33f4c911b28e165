"""Many requests at once: equal to each alone, bounded, in time, and gone when their client is."""

from __future__ import annotations

import socket
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from sparsevlm_trt.runtime.serving.ticket import Failed, Finished, Piece, Ticket

KINDS = [
    ({}, {}),
    ({"schedule": "1:4"}, {}),
    ({"method": "none"}, {}),
    ({"schedule": "1:9,3:2"}, {"num_images": 2}),
    ({"method": "fastv", "schedule": "1:5"}, {}),
]


def test_answers_under_load_equal_answers_alone(server, messages, alone):
    cases = [(n, *KINDS[n % len(KINDS)], 3 + 5 * (n % 4)) for n in range(40)]

    def ask(case):
        seed, plan, how, tokens = case
        answer = server.post(
            messages=messages(seed % 7, **how), max_tokens=tokens, sparsevlm=plan, user=str(seed)
        )
        assert answer.status_code == 200, answer.text
        return answer.json()["choices"][0]

    with ThreadPoolExecutor(20) as pool:
        answers = list(pool.map(ask, cases))
    for (seed, plan, how, tokens), answer in zip(cases, answers, strict=True):
        expected = alone(seed % 7, max_new_tokens=tokens, **plan, **how)
        assert answer["message"]["content"] == expected.text
        assert answer["finish_reason"] == expected.finish_reason


def until(done, seconds=10):
    end = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.01)


def test_a_full_queue_says_when_to_come_back(serve, messages):
    with serve(num_slots=1, num_waiting=1) as server, ThreadPoolExecutor(2) as pool:
        engine = server.desk.engine
        long = pool.submit(server.post, messages=messages(), max_tokens=400)
        until(lambda: engine.num_running == 1)
        second = pool.submit(server.post, messages=messages(), max_tokens=1)
        until(lambda: engine.num_waiting == 1)
        assert server.get("/ready").status_code == 503
        third = server.post(messages=messages())
        assert third.status_code == 429
        assert int(third.headers["Retry-After"]) >= 1
        assert third.json()["error"]["type"] == "rate_limit_error"
        assert long.result().status_code == second.result().status_code == 200
        assert 'request_refused_total{code="queue_full"} 1.0' in server.get("/metrics").text


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_leaves_frees_its_slot(serve, messages, stream):
    with serve(num_slots=1) as server:
        engine = server.desk.engine
        body = {"model": "tiny", "messages": messages(), "max_tokens": 400, "stream": stream}
        with httpx.Client(timeout=30) as client:
            request = client.build_request("POST", f"{server.url}/v1/chat/completions", json=body)
            raw = b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\n"
            raw += b"Content-Type: application/json\r\n"
            raw += b"Content-Length: %d\r\n\r\n" % len(request.content) + request.content
        port = int(server.url.rpartition(":")[2])
        with socket.create_connection(("127.0.0.1", port)) as connection:
            connection.sendall(raw)
            until(lambda: engine.num_running == 1)
        until(lambda: engine.num_running == 0, seconds=1)
        until(lambda: 'aborted_total{reason="gone"} 1.0' in server.get("/metrics").text)


def test_a_deadline_ends_what_waits_and_what_runs(serve, messages):
    with serve(num_slots=1, timeout_s=0.1) as server, ThreadPoolExecutor(2) as pool:
        answers = [pool.submit(server.post, messages=messages(), max_tokens=400) for _ in range(2)]
        assert [each.result().status_code for each in answers] == [504, 504]
        assert server.desk.engine.num_running == 0


def test_one_failure_ends_only_its_own_request(server, messages, alone, monkeypatch):
    engine = server.desk.engine
    news = []
    ticket = Ticket(
        0, "", [], [], settle=lambda: 1 / 0, deliver=news.append, deadline=time.monotonic() + 9
    )
    engine.submit(ticket)
    answer = server.post(messages=messages(), max_tokens=6)
    assert answer.json()["choices"][0]["message"]["content"] == alone().text
    assert isinstance(news[0], Failed)
    assert isinstance(news[0].error, ZeroDivisionError)


def test_closing_answers_what_was_taken(serve, messages):
    with ThreadPoolExecutor(4) as pool:
        with serve(num_slots=2) as server:
            running = [
                pool.submit(server.post, messages=messages(n), max_tokens=60) for n in range(4)
            ]
            engine = server.desk.engine
            until(lambda: engine.num_running + engine.num_waiting == 4)
        assert [each.result().status_code for each in running] == [200] * 4
        assert not engine.is_alive


def test_the_engine_alone_tells_pieces_then_the_end(server, alone):
    from sparsevlm_trt.runtime.request import make_request

    desk = server.desk
    manifest = desk.engine.session.bundle.manifest
    news = []
    conversation = [{"role": "user", "content": "hello"}]
    request = make_request(manifest, {"max_new_tokens": 4})
    ticket = Ticket(
        0, "", conversation, [], lambda: request, news.append, deadline=time.monotonic() + 9
    )
    desk.engine.submit(ticket)
    until(lambda: any(isinstance(each, Finished) for each in news))
    tokens = [each.token for each in news if isinstance(each, Piece)]
    expected = desk.engine.session.generate(messages=conversation, max_new_tokens=4)
    assert tokens == expected.tokens
