"""A client of `sparsevlm serve` for benchmarks: asks alone or in a crowd, notes the times."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import click
import httpx

from sparsevlm_trt.runtime.bench.machine import describe_machine
from sparsevlm_trt.runtime.threads import allowed_cpus

bundle_argument = click.argument("bundle", type=click.Path(path_type=Path, exists=True))
picture_argument = click.argument("picture", type=click.Path(path_type=Path, exists=True))
question_argument = click.argument("question")
json_option = click.option("--json", "json_path", type=click.Path(path_type=Path))


@dataclass(frozen=True, slots=True)
class Asked:
    """One request as its client saw it; times in seconds, `at` since the run began."""

    at: float
    status: int
    first_s: float | None
    whole_s: float
    budget: int | None
    method: str | None
    num_tokens: int
    text: str


@contextmanager
def served(bundle: Path, *options: str) -> Iterator[tuple[str, int]]:
    """A server of a bundle; gives its URL and process id."""
    command = [sys.executable, "-m", "sparsevlm_trt.runtime.cli", "serve", str(bundle)]
    command += ["--port", "0", "--model-name", "served", "--image-cache-mb", "0", *options]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as server:
        assert server.stderr is not None
        told = server.stderr.readline()
        if not told.startswith("serving "):
            raise click.ClickException(told.strip())
        url = told.split()[-1]
        drain = subprocess.Popen(["cat"], stdin=server.stderr, stdout=subprocess.DEVNULL)
        try:
            for _ in range(600):
                try:
                    if httpx.get(f"{url}/ready", timeout=60).status_code == 200:
                        break
                except httpx.HTTPError:
                    time.sleep(0.1)
            yield url, server.pid
        finally:
            server.send_signal(signal.SIGTERM)
            server.wait(60)
            drain.wait(10)


def body_of(picture: Path, question: str, **changes: Any) -> dict[str, Any]:
    """A chat request about a picture."""
    data = base64.b64encode(picture.read_bytes()).decode()
    url = {"url": f"data:image/png;base64,{data}"}
    parts = [{"type": "image_url", "image_url": url}, {"type": "text", "text": question}]
    messages = [{"role": "user", "content": parts}]
    return {"model": "served", "messages": messages, "stream": True, **changes}


async def ask(client: httpx.AsyncClient, url: str, body: dict[str, Any], began: float) -> Asked:
    """Ask once, and note when the first and the last token came."""
    started = time.perf_counter()
    first, num_tokens, told, text = None, 0, {}, ""
    body = body | {"stream_options": {"include_usage": True}}
    async with client.stream("POST", f"{url}/v1/chat/completions", json=body) as answer:
        async for line in answer.aiter_lines():
            if not line.startswith("data: {"):
                continue
            if first is None:
                first = time.perf_counter() - started
            chunk = json.loads(line[6:])
            told = chunk.get("sparsevlm", told)
            num_tokens = (chunk.get("usage") or {}).get("completion_tokens", num_tokens)
            text += "".join(c["delta"].get("content", "") for c in chunk.get("choices", ()))
    return Asked(
        at=started - began,
        status=answer.status_code,
        first_s=first,
        whole_s=time.perf_counter() - started,
        budget=told.get("budget"),
        method=told.get("method"),
        num_tokens=num_tokens,
        text=text,
    )


async def closed_loop(
    url: str, bodies: list[dict[str, Any]], concurrency: int
) -> tuple[list[Asked], float]:
    """Ask all, `concurrency` at a time; returns the answers in order, and the seconds it took."""
    gate, began = asyncio.Semaphore(concurrency), time.perf_counter()

    async def one(body: dict[str, Any]) -> Asked:
        async with gate:
            return await ask(client, url, body, began)

    limits = httpx.Limits(max_connections=concurrency)
    async with httpx.AsyncClient(timeout=300, limits=limits) as client:
        answers = await asyncio.gather(*map(one, bodies))
    return list(answers), time.perf_counter() - began


async def open_loop(url: str, body: dict[str, Any], arrivals: list[float]) -> list[Asked]:
    """Ask at the given times, however long the answers take."""
    began = time.perf_counter()

    async def one(at: float) -> Asked:
        await asyncio.sleep(at)
        return await ask(client, url, body, began)

    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(timeout=300, limits=limits) as client:
        return list(await asyncio.gather(*map(one, arrivals)))


def quantile(values: list[float], share: float) -> float:
    """The value below which `share` of all lie."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def machine() -> dict[str, Any]:
    """Where this ran, on which versions, and how busy the machine was."""
    described = describe_machine(allowed_cpus())
    described["versions"] |= {name: metadata.version(name) for name in ("fastapi", "uvicorn")}
    return {"machine": described, "load_average": list(os.getloadavg())}


def write(result: dict[str, Any], path: Path | None) -> None:
    """Write a result with its machine."""
    if path is not None:
        path.write_text(json.dumps(result | machine(), indent=1) + "\n", encoding="utf-8")
