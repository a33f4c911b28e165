"""Ten thousand broken requests, a fuzzer of the API's own description, five hundred good ones."""

from __future__ import annotations

import base64
import json
import os
import random
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import httpx
import pytest

from sparsevlm_trt.runtime.serving.remote_pictures import fetch_picture
from sparsevlm_trt.runtime.serving.settings import ImageLimits

pytestmark = pytest.mark.slow

SLOWEST_S = 20.0  # a whole queue of harmless ones may stand before it


def data(raw: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(raw).decode()}"


URLS = [
    "https://169.254.169.254/latest/meta-data",
    "https://[::1]/",
    "https://[::ffff:127.0.0.1]/",
    "https://localhost:443/",
    "https://2130706433/",
    "https://0177.0.0.1/",
    "https://inside.example/",
    "https://inside.example@evil.example/",
    "https://evil.example/?https://inside.example/",
    "http://inside.example/",
    "file:///etc/passwd",
    "data:,",
    "data:image/png;base64,",
    "data:text/html;base64,PHNjcmlwdD4=",
    data(b"\x89PNG\r\n\x1a\n" + b"\0" * 64),
    data(b"\xff\xd8\xff\xe0" + b"<script>alert(1)</script>"),
    data(b"GIF89a" + b"\xff" * 500),
    data(b"RIFF\x24\0\0\0WEBPVP8 " + b"\0" * 20),
    data(b"BM" + b"\xff" * 60),
    data(b"PK\x03\x04" + b"\0" * 40),
    data(b"%PDF-1.7"),
    "A" * 5000,
]
VALUES = [
    "NaN",
    "Infinity",
    "-1",
    "1e999",
    "9" * 400,
    '"\\ud800"',
    "[[[[]]]]",
    "{}",
    "null",
    "true",
]
FIELDS = ["max_tokens", "temperature", "top_p", "seed", "n", "stop", "stream", "model", "messages"]
OURS = ["budget", "schedule", "method", "patches", "seen", "ignore_eos", "unknown"]


def broken_body(number: int, good: bytes) -> bytes:
    """One of several ways to break a request, by its number."""
    draw = random.Random(number)
    kind = number % 6
    if kind == 0:
        return good[: draw.randrange(len(good))]
    if kind == 1:
        raw = bytearray(good)
        for _ in range(draw.randrange(1, 20)):
            raw[draw.randrange(len(raw))] = draw.randrange(256)
        return bytes(raw)
    if kind == 2:
        name, value = draw.choice(FIELDS), draw.choice(VALUES)
        return good[:-1] + f', "{name}": {value}}}'.encode()
    if kind == 3:
        name, value = draw.choice(OURS), draw.choice(VALUES)
        return good[:-1] + f', "sparsevlm": {{"{name}": {value}}}}}'.encode()
    if kind == 4:
        part = {"type": "image_url", "image_url": {"url": draw.choice(URLS)}}
        body = {"model": "tiny", "messages": [{"role": "user", "content": [part]}]}
        return json.dumps(body).encode()
    return draw.choice([b"[" * 50_000, b'{"a":' * 20_000, os.urandom(300), b"", b"\0", b"null"])


def test_ten_thousand_broken_requests(serve, messages):
    asked = []
    transport = httpx.MockTransport(lambda request: asked.append(request))
    fetch = partial(fetch_picture, resolver=lambda _: ["10.0.0.1"], transport=transport)
    limits = ImageLimits(hosts=frozenset({"inside.example"}))
    good = json.dumps({"model": "tiny", "messages": messages(), "max_tokens": 1}).encode()
    with serve(fetch=fetch, images=limits) as server:

        def send(numbers):
            statuses = {}
            with httpx.Client(base_url=server.url, timeout=SLOWEST_S) as client:
                for number in numbers:
                    answer = client.post(
                        "/v1/chat/completions",
                        content=broken_body(number, good),
                        headers={"Content-Type": "application/json"},
                    )
                    statuses[answer.status_code] = statuses.get(answer.status_code, 0) + 1
                    assert answer.status_code < 500, (number, answer.text)
            return statuses

        with ThreadPoolExecutor(8) as pool:
            counts = list(pool.map(send, (range(start, 10_000, 8) for start in range(8))))
        total = {}
        for count in counts:
            for status, times in count.items():
                total[status] = total.get(status, 0) + times
        assert sum(total.values()) == 10_000
        assert set(total) <= {200, 400, 404, 429}, total
        assert total[400] > 8000
        assert not asked
        assert server.get("/health").status_code == 200
        assert server.post(messages=messages(), max_tokens=1).status_code == 200
        assert server.desk.engine.num_running == 0


def test_the_api_keeps_to_its_own_description(server, tmp_path):
    fuzzer = shutil.which("schemathesis", path=os.path.dirname(sys.executable))
    if fuzzer is None:
        pytest.skip("needs schemathesis")
    command = [fuzzer, "run", f"{server.url}/openapi.json", "--max-examples", "150"]
    command += ["--checks", "not_a_server_error,status_code_conformance"]
    command += ["--phases", "examples,coverage,fuzzing", "--seed", "1", "--no-color"]
    # It keeps notes of what it found where it runs.
    done = subprocess.run(
        command, check=False, capture_output=True, text=True, timeout=900, cwd=tmp_path
    )
    assert done.returncode == 0, done.stdout[-4000:]


def test_five_hundred_requests_at_once_equal_each_alone(server, messages, alone):
    plans = [
        ({}, {}),
        ({"schedule": "1:4"}, {}),
        ({"method": "none"}, {}),
        ({"schedule": "1:9,3:2"}, {"num_images": 2}),
        ({"method": "fastv", "schedule": "1:5"}, {}),
        ({"method": "uniform"}, {}),
        ({"schedule": "1:12,3:7"}, {"num_images": 3}),
    ]
    cases = [(n % 5, *plans[n % len(plans)], 2 + 7 * (n % 4)) for n in range(500)]

    def ask(case):
        picture, plan, how, tokens = case
        for _ in range(1000):
            answer = server.post(
                messages=messages(picture, **how),
                max_tokens=tokens,
                sparsevlm=plan,
                stream=False,
                timeout=120,
            )
            if answer.status_code != 429:
                break
            time.sleep(0.05)
        assert answer.status_code == 200, answer.text
        return answer.json()["choices"][0]["message"]["content"]

    with ThreadPoolExecutor(32) as pool:
        answers = list(pool.map(ask, cases))
    known = {}
    for case, answer in zip(cases, answers, strict=True):
        picture, plan, how, tokens = case
        key = json.dumps(case)
        if key not in known:
            known[key] = alone(picture, max_new_tokens=tokens, **plan, **how).text
        assert answer == known[key], case
    assert len(known) == 5 * 7 * 4
