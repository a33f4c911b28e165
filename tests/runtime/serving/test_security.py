"""Keys, body sizes, forbidden addresses and what the log tells, at a running server."""

from __future__ import annotations

import hashlib
import json
import logging
import socket

import httpx
import pytest

from sparsevlm_trt.runtime.errors import InputError
from sparsevlm_trt.runtime.serving.keys import KeyRing
from sparsevlm_trt.runtime.serving.request_log import log_to_stderr

KEY = "a-random-key"


def key_file(folder, text=None):
    path = folder / "keys"
    digest = hashlib.sha256(KEY.encode()).hexdigest()
    path.write_text(f"# clients\n\nalice {digest}\n" if text is None else text)
    return path


def test_only_known_keys_may_ask(serve, messages, tmp_path):
    with serve(keys=KeyRing.open(key_file(tmp_path))) as server:
        url = f"{server.url}/v1/chat/completions"
        body = {"model": "tiny", "messages": messages(), "max_tokens": 2}
        for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": KEY}):
            refused = httpx.post(url, json=body, headers=headers)
            assert refused.status_code == 401
            assert refused.json()["error"]["code"] == "invalid_api_key"
        assert server.get("/metrics").status_code == 401
        assert server.get("/health").status_code == 200
        answer = httpx.post(url, json=body, headers={"Authorization": f"Bearer {KEY}"})
        assert answer.status_code == 200


@pytest.mark.parametrize("text", ["", "alice secret\n", f"alice {'0' * 63}\n", "\xe9 x"])
def test_a_key_file_of_another_form_is_refused(tmp_path, text):
    with pytest.raises(InputError, match="keys"):
        KeyRing.open(key_file(tmp_path, text))


def raw(server, head, body=b""):
    """Send bytes, and return the status that comes back."""
    port = int(server.url.rpartition(":")[2])
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        connection.sendall(head.replace("\n", "\r\n").encode() + body)
        return int(connection.recv(4096).split()[1])


POST = "POST /v1/chat/completions HTTP/1.1\nHost: x\nContent-Type: application/json\n"


@pytest.mark.parametrize("claim", ["1000000000", "99999999999999999999", "-1", "1e3"])
def test_a_claim_to_be_huge_is_answered_without_reading(server, claim):
    assert raw(server, f"{POST}Content-Length: {claim}\n\n") in (400, 413)


def test_a_body_without_a_length_is_counted_as_it_comes(serve):
    with serve(body_bytes=10_000) as server:

        def chunks():
            for _ in range(10):
                yield b"x" * 5000

        answer = httpx.post(
            f"{server.url}/v1/chat/completions",
            content=chunks(),
            headers={"Content-Type": "application/json"},
        )
        assert answer.status_code == 413
        assert answer.json()["error"]["code"] == "body_too_large"


@pytest.mark.parametrize(
    "url",
    [
        "https://169.254.169.254/latest/meta-data",
        "https://localhost/",
        "http://127.0.0.1:1/",
        "file:///etc/passwd",
        "data:image/png;base64,AAAA",
    ],
)
def test_pictures_from_elsewhere_are_refused(server, url):
    part = {"type": "image_url", "image_url": {"url": url}}
    answer = server.post(messages=[{"role": "user", "content": [part]}])
    assert answer.status_code == 400
    assert answer.json()["error"]["code"] in ("invalid_image", "image_not_fetched")


def test_too_many_pictures(server, messages):
    answer = server.post(messages=messages(num_images=9))
    assert answer.json()["error"]["code"] == "too_many_images"


@pytest.mark.parametrize("log_content", [False, True])
def test_the_log_tells_counts_and_keeps_secrets(serve, messages, capsys, log_content):
    names = ("sparsevlm", "sparsevlm_trt", "uvicorn")
    before = {name: logging.getLogger(name).handlers for name in names}
    log_to_stderr()
    try:
        with serve(log_content=log_content) as server:
            answer = server.post(messages=messages(question="my secret"), max_tokens=3)
            assert answer.status_code == 200
    finally:
        for name, handlers in before.items():
            logging.getLogger(name).handlers = handlers
            logging.getLogger(name).propagate = True
    told = capsys.readouterr().err
    (line,) = [json.loads(each) for each in told.splitlines() if '"request"' in each]
    assert (line["outcome"], line["completion_tokens"]) == ("length", 3)
    assert (line["visual_tokens_in"], line["visual_tokens_kept"]) == (16, 6)
    assert ("my secret" in told) == log_content
    assert "base64" not in told
