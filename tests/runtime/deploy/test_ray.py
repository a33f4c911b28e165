"""The server on Ray Serve: the same answers, through a kill, and through an update."""

from __future__ import annotations

import os
import signal
import socket
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from click.testing import CliRunner

from sparsevlm_trt.runtime import Session
from sparsevlm_trt.runtime.cli import main

HEALTH_S = 2.0


@pytest.fixture(scope="module")
def fleet(bundle_of):
    ray = pytest.importorskip("ray", reason="needs ray[serve]")
    from sparsevlm_trt.runtime.deploy.ray_app import Fleet, deploy_on_ray
    from sparsevlm_trt.runtime.serving.settings import Settings

    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]

    def start(name="tiny"):
        return deploy_on_ray(
            bundle_of(),
            Settings(name, default_new_tokens=6),
            Fleet(2, 2, num_cpus=0.5, health_period_s=HEALTH_S),
            host="127.0.0.1",
            port=port,
            runner_options={"threads": 1},
        )

    yield start
    ray.shutdown()


def ask(url, name="tiny"):
    body = {"model": name, "messages": [{"role": "user", "content": "hello"}], "max_tokens": 6}
    return httpx.post(f"{url}/v1/chat/completions", json=body, timeout=60)


def replica_processes():
    """The processes of our replicas on this machine."""
    found = []
    for entry in os.listdir("/proc"):
        if entry.isdecimal():
            try:
                with open(f"/proc/{entry}/cmdline", "rb") as file:
                    title = file.read()
            except OSError:
                continue
            if b"ServeReplica:sparsevlm" in title:
                found.append(int(entry))
    return found


def until(done, seconds=120):
    end = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.05)


def until_answered(url):
    """A client that tries again on what it may try again."""
    for _ in range(400):
        try:
            answer = ask(url)
        except httpx.HTTPError:
            answer = None
        if answer is not None and answer.status_code == 200:
            return answer.json()["choices"][0]["message"]["content"]
        time.sleep(0.25)
    return None


def test_the_least_is_not_above_the_most(bundle_of):
    bounds = ["--min-replicas", "3", "--max-replicas", "2"]
    done = CliRunner().invoke(main, ["deploy", "ray", str(bundle_of()), *bounds])
    assert done.exit_code == 1
    assert "3 to 2 replicas" in done.output


def test_a_cluster_that_is_not_there(bundle_of):
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    command = ["deploy", "ray", str(bundle_of()), "--address", f"127.0.0.1:{port}"]
    result = CliRunner().invoke(main, command)
    assert result.exit_code == 1
    assert f"got 127.0.0.1:{port}" in result.stderr
    assert "expected a running cluster" in result.stderr


@pytest.mark.slow
def test_it_answers_survives_kills_and_rolls_out(fleet, bundle_of):
    messages = [{"role": "user", "content": "hello"}]
    with Session.load(bundle_of()) as session:
        alone = session.generate(messages=messages, max_new_tokens=6).text
    url = fleet()
    assert ask(url).json()["choices"][0]["message"]["content"] == alone

    def kill_under_load(victims):
        """Kill replicas while 8 clients ask; returns the seconds until a later client's answer."""
        with ThreadPoolExecutor(9) as pool:
            running = [pool.submit(until_answered, url) for _ in range(40)]
            until(lambda: any(each.done() for each in running))
            for victim in victims:
                os.kill(victim, signal.SIGKILL)
            killed = time.monotonic()
            later = until_answered(url)
            back_s = time.monotonic() - killed
            assert [later, *(each.result() for each in running)] == [alone] * 41
        until(lambda: len(set(replica_processes()) - set(victims)) == 2)
        return back_s

    before = replica_processes()
    assert len(before) == 2
    assert kill_under_load(before[:1]) <= HEALTH_S
    assert before[1] in replica_processes()
    # With nobody left, clients wait for a new process and its bundle, and lose nothing.
    print(f"back {kill_under_load(replica_processes()):.1f} s after the last replica was killed")

    assert fleet("second") == url  # the same cluster, another configuration
    assert ask(url, "second").json()["choices"][0]["message"]["content"] == alone
    assert ask(url, "tiny").status_code == 404
