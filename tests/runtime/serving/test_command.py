"""`sparsevlm serve` as a process: it refuses before it loads, and ends without losing anything."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys

import httpx
from click.testing import CliRunner

from sparsevlm_trt.runtime.cli import main


def test_sigterm_finishes_the_answers_that_were_taken(bundle_of, messages, alone):
    command = [sys.executable, "-m", "sparsevlm_trt.runtime.cli", "serve", str(bundle_of())]
    command += ["--port", "0", "--model-name", "tiny", "--queue", "5"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as server:
        url = server.stderr.readline().split()[-1]
        body = {"model": "tiny", "messages": messages(), "max_tokens": 300, "stream": True}
        body["sparsevlm"] = {"ignore_eos": True}
        text = ""
        with httpx.stream("POST", f"{url}/v1/chat/completions", json=body, timeout=60) as answer:
            for number, line in enumerate(answer.iter_lines()):
                if number == 2:
                    server.send_signal(signal.SIGTERM)
                if line.startswith("data: {"):
                    chunk = json.loads(line[6:])
                    text += chunk["choices"][0]["delta"].get("content", "")
                    reason = chunk["choices"][0]["finish_reason"]
        assert server.wait(20) == 0
    assert reason == "length"
    assert text == alone(max_new_tokens=300, stop_tokens=()).text


def test_a_taken_port_is_told_at_once(bundle_of):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        done = CliRunner().invoke(main, ["serve", str(bundle_of()), "--port", port])
    assert done.exit_code == 1
    assert "free port" in done.output


def test_a_bundle_that_was_changed_is_not_served(tmp_path):
    done = CliRunner().invoke(main, ["serve", str(tmp_path), "--port", "0"])
    assert done.exit_code == 1
    assert "bundle.json" in done.output
