"""Chat completions as OpenAI's client, curl and a plain HTTP client see them."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import httpx
import openai
import pytest

DASHBOARD = Path(__file__).parents[3] / "docs/serving-dashboard.json"


@pytest.fixture(scope="module")
def client(server):
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
        yield client


def test_the_openai_client_gets_the_session_s_answer(client, messages, alone):
    answer = client.chat.completions.create(model="tiny", messages=messages(), max_tokens=6)
    expected = alone()
    assert answer.choices[0].message.content == expected.text
    assert answer.choices[0].finish_reason == expected.finish_reason
    usage = answer.usage
    assert usage.completion_tokens == len(expected.tokens)
    trace = expected.trace
    assert usage.prompt_tokens == trace.prefix_length + trace.num_visual + trace.num_text
    assert (usage.visual_tokens_in, usage.visual_tokens_kept) == (16, 6)
    assert answer.sparsevlm["stages"][0]["visual_tokens_out"] == 10
    assert answer.sparsevlm["budget_source"] == "bundle"


def test_the_openai_client_streams_the_same_answer(client, messages, alone):
    chunks = list(
        client.chat.completions.create(
            model="tiny",
            messages=messages(),
            max_tokens=6,
            stream=True,
            stream_options={"include_usage": True},
            extra_body={"sparsevlm": {"schedule": "1:4", "patches": True}},
        )
    )
    expected = alone(schedule="1:4")
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert text == expected.text
    assert chunks[0].sparsevlm["stages"][0]["kept"] == 4
    patches = expected.trace.stages[0].patches
    assert chunks[0].sparsevlm["stages"][0]["patches"] == patches[patches >= 0].tolist()
    assert chunks[0].sparsevlm["grid"] == [4, 4]
    assert chunks[-2].choices[0].finish_reason == expected.finish_reason
    assert chunks[-1].usage.completion_tokens == len(expected.tokens)
    assert len({c.id for c in chunks}) == 1


def test_several_pictures(client, messages, alone):
    answer = client.chat.completions.create(
        model="tiny", messages=messages(num_images=2), max_tokens=6
    )
    expected = alone(num_images=2)
    assert answer.choices[0].message.content == expected.text
    assert answer.usage.visual_tokens_in == expected.trace.num_visual


def test_text_alone(client, tiny_session):
    conversation = [{"role": "user", "content": "say something"}]
    answer = client.chat.completions.create(model="tiny", messages=conversation, max_tokens=6)
    expected = tiny_session.generate(messages=conversation, max_new_tokens=6)
    assert answer.choices[0].message.content == expected.text
    assert answer.usage.visual_tokens_in == 0


def test_draws_repeat_by_their_seed(client, messages, alone):
    options = {"temperature": 0.8, "top_p": 0.9, "seed": 3}
    answer = client.chat.completions.create(
        model="tiny", messages=messages(), max_tokens=12, **options
    )
    assert answer.choices[0].message.content == alone(max_new_tokens=12, **options).text


def test_curl_streams_an_answer(server, messages, alone, tmp_path):
    body = {"model": "tiny", "messages": messages(), "stream": True, "max_tokens": 6}
    (tmp_path / "body.json").write_text(json.dumps(body))
    command = ["curl", "-sN", f"{server.url}/v1/chat/completions", "-d", "@body.json"]
    command += ["-H", "Content-Type: application/json"]
    done = subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, text=True)
    lines = [line for line in done.stdout.splitlines() if line]
    assert lines[-1] == "data: [DONE]"
    chunks = [json.loads(line.removeprefix("data: ")) for line in lines[:-1]]
    text = "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks)
    assert text == alone().text


def test_models(client):
    assert [model.id for model in client.models.list()] == ["tiny"]
    assert client.models.retrieve("tiny").id == "tiny"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("other")


def test_probes_and_metrics(server, messages):
    assert server.post(messages=messages(), max_tokens=3).status_code == 200
    assert server.get("/health").json() == {"status": "ok"}
    assert server.get("/ready").json() == {"status": "ready"}
    text = server.get("/metrics").text
    for name in (
        "num_requests_running",
        "num_requests_waiting",
        "time_to_first_token_seconds_count",
        "inter_token_latency_seconds_count",
        "prompt_tokens_total",
        "generation_tokens_total",
        'visual_tokens_kept_total{stage="stage_1"}',
        'prune_time_seconds_count{step="prune_1"}',
        'kv_cache_bytes{stage="stage_0"}',
        "visual_budget",
    ):
        assert f"sparsevlm:{name}" in text, name


REFUSED = {
    "unknown field": ({"frequency": 1}, 400, "frequency"),
    "unknown field of ours": ({"sparsevlm": {"budgets": 64}}, 400, "sparsevlm.budgets"),
    "budget that is none": ({"sparsevlm": {"budget": 0}}, 400, "budget"),
    "budget out of reach": ({"sparsevlm": {"budget": 3}}, 400, "3"),
    "share out of reach": ({"sparsevlm": {"budget": 0.01}}, 400, "0.01"),
    "share above all": ({"sparsevlm": {"budget": 1.5}}, 400, "budget"),
    "huge budget": ({"sparsevlm": {"budget": 10**30}}, 400, "budget"),
    "budget as text": ({"sparsevlm": {"budget": "64"}}, 400, "budget"),
    "budget and schedule": ({"sparsevlm": {"budget": 64, "schedule": "1:3"}}, 400, "one of the"),
    "schedule elsewhere": ({"sparsevlm": {"schedule": "2:3"}}, 400, "boundaries"),
    "schedule in prose": ({"sparsevlm": {"schedule": "few"}}, 400, "few"),
    "method unknown": ({"sparsevlm": {"method": "magic"}}, 400, "magic"),
    "another model": ({"model": "gpt"}, 404, "tiny"),
    "several answers": ({"n": 2}, 400, "n:"),
    "no tokens": ({"max_tokens": 0}, 400, "max_tokens"),
    "too many tokens": ({"max_tokens": 401}, 400, "401"),
    "cold": ({"temperature": -1}, 400, "temperature"),
    "top_p": ({"top_p": 1.5}, 400, "top_p"),
    "no messages": ({"messages": []}, 400, "messages"),
    "role": ({"messages": [{"role": "tool", "content": "x"}]}, 400, "role"),
    "too long": ({"messages": [{"role": "user", "content": "x" * 600}]}, 400, "512"),
    "a placeholder": ({"messages": [{"role": "user", "content": "<image>"}]}, 400, "placeholders"),
}


@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.parametrize("stream", [False, True])
def test_what_cannot_be_honoured_is_refused_with_its_reason(server, messages, name, stream):
    changes, status, reason = REFUSED[name]
    answer = server.post(**{"messages": messages(), "stream": stream, **changes})
    assert answer.status_code == status, answer.text
    error = answer.json()["error"]
    assert reason in error["message"]
    assert error["code"]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b'"x"',
        b'{"model": "tiny"',
        b"\xff\xfe",
        b'{"model": "\\ud800"}',
        b'{"model": "tiny", "messages": [{"role": "user", "content": "x"}], "temperature": NaN}',
        b"[" * 100_000,
    ],
)
def test_broken_bodies_are_refused(server, content):
    headers = {"Content-Type": "application/json"}
    url = f"{server.url}/v1/chat/completions"
    answer = httpx.post(url, content=content, headers=headers, timeout=10)
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["message"]


def test_unknown_paths_and_methods_answer_in_the_same_form(server):
    assert server.get("/v1/nothing").json()["error"]["code"] == "not_found"
    assert server.get("/v1/chat/completions").status_code == 405


def test_the_dashboard_shows_metrics_that_there_are(server, messages):
    assert server.post(messages=messages(), max_tokens=3).status_code == 200
    told = set(re.findall(r"^# TYPE (\S+)", server.get("/metrics").text, re.MULTILINE))
    dashboard = json.loads(DASHBOARD.read_text(encoding="utf-8"))
    expressions = [t["expr"] for panel in dashboard["panels"] for t in panel["targets"]]
    shown = set(re.findall(r"sparsevlm:\w+", " ".join(expressions)))
    bare = {re.sub(r"_(bucket|sum|count)$", "", name) for name in shown}
    assert bare <= told
    assert len(bare) > 12
