"""Load a served bundle: throughput by concurrency, and a step of load on the budget controller.

    python benchmarks/serving.py throughput BUNDLE PICTURE QUESTION [--json FILE]
    python benchmarks/serving.py profile BUNDLE PICTURE QUESTION [--json FILE]
    python benchmarks/serving.py overload BUNDLE PICTURE QUESTION [--json FILE] [--chart FILE]
    python benchmarks/serving.py soak BUNDLE PICTURE QUESTION [--minutes 20] [--json FILE]

Starts `sparsevlm serve` on a free port of the loopback, asks it over HTTP as a client would, and
ends it. Every run is bounded: by its number of requests, or by its time. All ask about one
picture, so the server remembers no features: each request pays for its own, as others would. Only
`profile` asks the engine itself, to tell a prompt's time and a decode pass's time by rows.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import random
import re
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import click
import httpx
import numpy as np
from serving_chart import chart_svg

from sparsevlm_trt.runtime import Session
from sparsevlm_trt.runtime.bench.machine import describe_machine
from sparsevlm_trt.runtime.prompt import prompt_from_text
from sparsevlm_trt.runtime.request import plan_pruning
from sparsevlm_trt.runtime.slots import SlotBatch
from sparsevlm_trt.runtime.threads import allowed_cpus
from sparsevlm_trt.runtime.trace import Clock

ROWS = (1, 2, 4, 8)  # that decode together in the profile


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


@click.group()
def main() -> None:
    """Load a served bundle."""


_bundle = click.argument("bundle", type=click.Path(path_type=Path, exists=True))
_picture = click.argument("picture", type=click.Path(path_type=Path, exists=True))
_question = click.argument("question")
_json = click.option("--json", "json_path", type=click.Path(path_type=Path))


@main.command()
@_bundle
@_picture
@_question
@_json
@click.option("--requests", default=16, show_default=True)
@click.option("--tokens", default=64, show_default=True)
def throughput(
    bundle: Path, picture: Path, question: str, json_path: Path | None, requests: int, tokens: int
) -> None:
    """Tokens a second at concurrency 1 and 8, and the profile of where the time goes."""
    result: dict[str, Any] = {"requests": requests, "tokens": tokens, "by_concurrency": {}}
    pruning = {"ignore_eos": True, "budget": 64}
    body = body_of(picture, question, max_tokens=tokens, sparsevlm=pruning)
    with served(bundle) as (url, _):
        asyncio.run(closed_loop(url, [body] * 2, 2))  # warm
        texts = set()
        for concurrency in (1, 8):
            count = requests if concurrency > 1 else max(4, requests // 4)
            before = counters(url)
            answers, elapsed = asyncio.run(closed_loop(url, [body] * count, concurrency))
            assert {answer.status for answer in answers} == {200}
            texts |= {answer.text for answer in answers}
            made = sum(answer.num_tokens for answer in answers)
            first = [answer.first_s or 0 for answer in answers]
            spent = {key: value - before.get(key, 0) for key, value in counters(url).items()}
            row = {
                "tokens_per_s": made / elapsed,
                "requests_per_s": count / elapsed,
                "first_token_s_median": statistics.median(first),
                "first_token_s_p99": quantile(first, 0.99),
                "seconds": elapsed,
                "prefill_seconds": spent["prefill"],
                "decode_rows_mean": spent["rows"] / max(spent["passes"], 1),
            }
            result["by_concurrency"][concurrency] = row
            click.echo(f"{concurrency}: " + ", ".join(f"{k} {v:.2f}" for k, v in row.items()))
    rows = result["by_concurrency"]
    result["gain"] = rows[8]["tokens_per_s"] / rows[1]["tokens_per_s"]
    result["distinct_answers"] = len(texts)
    click.echo(f"gain {result['gain']:.2f}, distinct answers {len(texts)}")
    write(result, json_path)


def counters(url: str) -> dict[str, float]:
    """Sums of the metrics that tell where the time went."""
    text = httpx.get(f"{url}/metrics", timeout=30).text

    def total(pattern: str) -> float:
        return sum(float(value) for value in re.findall(pattern, text, re.MULTILINE))

    return {
        "prefill": total(r"^sparsevlm:prefill_step_seconds_sum\{[^}]*\} (\S+)"),
        "rows": total(r"^sparsevlm:decode_batch_rows_sum (\S+)"),
        "passes": total(r"^sparsevlm:decode_batch_rows_count (\S+)"),
    }


@main.command()
@_bundle
@_picture
@_question
@_json
@click.option("--passes", default=12, show_default=True, help="Rounds of one pass for each count.")
@click.option("--tokens", default=64, show_default=True, help="Of an answer, for the gain.")
def profile(
    bundle: Path, picture: Path, question: str, json_path: Path | None, passes: int, tokens: int
) -> None:
    """Time a prompt and a decode pass by rows and by part: what the gain of company can be."""
    parts: dict[int, list[dict[str, float]]] = {count: [] for count in ROWS}
    content = [{"type": "image"}, {"type": "text", "text": question}]
    messages = [{"role": "user", "content": content}]
    with Session.load(bundle, verify=False, image_cache_bytes=0) as session:
        manifest, prompts = session.bundle.manifest, []
        batches = {count: SlotBatch(session.chain, manifest, count) for count in ROWS}
        plan = plan_pruning(manifest, budget=64)
        for _ in range(6):  # the first warms up
            started, clock = time.perf_counter(), Clock()
            prompt = prompt_from_text(
                session.chain,
                manifest,
                session.processor,
                clock,
                images=[picture],
                messages=messages,
            )
            _, state = session.chain.prefill(
                prompt.embeds, prompt.layout, plan, 0, clock, prompt.places, prompt.deepstack
            )
            prompts.append(1e3 * (time.perf_counter() - started))
        for count, batch in batches.items():
            for _ in range(count):
                batch.join(state)
        for number in range(passes + 1):  # counts in turn; the first warms up
            for count, batch in batches.items():
                clock = Clock()
                batch.decode(np.full(count, 5, np.int64), clock)
                spent = {"stages": 0.0, "embed and head": 0.0}
                for step, ms in clock.steps:
                    spent["stages" if step.startswith("stage") else "embed and head"] += ms
                _, spent["host"] = clock.lap()
                if number:
                    parts[count].append(spent)
    prompt_ms = statistics.median(prompts[1:])
    rows = {
        count: {name: statistics.median(each[name] for each in found) for name in found[0]}
        for count, found in parts.items()
    }
    whole = {
        count: statistics.median(sum(each.values()) for each in parts[count]) for count in ROWS
    }
    click.echo(f"a prompt {prompt_ms:.0f} ms")
    for count in ROWS:
        one, each = prompt_ms + tokens * whole[1], prompt_ms + tokens * whole[count] / count
        told = ", ".join(f"{name} {ms:.1f}" for name, ms in rows[count].items())
        click.echo(
            f"{count} rows: a pass {whole[count]:.1f} ms ({told}); decoding gains "
            f"{count * whole[1] / whole[count]:.2f}, answers of {tokens} tokens {one / each:.2f}"
        )
    write({"prompt_ms": prompt_ms, "pass_ms": whole, "parts_ms": rows}, json_path)


@main.command()
@_bundle
@_picture
@_question
@_json
@click.option("--chart", type=click.Path(path_type=Path), help="An SVG of both runs.")
@click.option("--target", type=float, help="TTFT to hold.  [default: 3 x unloaded, unpruned]")
@click.option("--phase", default=25.0, show_default=True, help="Seconds before and of the step.")
@click.option("--rate", type=float, help="Requests/s before the step.  [default: half capacity]")
def overload(
    bundle: Path,
    picture: Path,
    question: str,
    json_path: Path | None,
    chart: Path | None,
    target: float | None,
    phase: float,
    rate: float | None,
) -> None:
    """Three times the load for a while: all visual tokens throughout, or lowered under pressure.

    The load before the step is half of what the server can do without pruning.
    """
    body = body_of(picture, question, max_tokens=8)
    result: dict[str, Any] = {"phase_s": phase, "runs": {}}
    for name in ("all visual tokens", "controller"):
        options = ["--queue", "2000", "--timeout", "600", "--whole"]
        if name == "controller":
            options += ["--target-ttft", str(target), "--floor", "32"]
        with served(bundle, *options) as (url, _):
            whole = body | {"sparsevlm": {"method": "none"}}
            asyncio.run(closed_loop(url, [whole] * 2, 1))  # warm
            if target is None:
                calm, _ = asyncio.run(closed_loop(url, [whole] * 5, 1))
                target = round(3 * statistics.median(each.first_s or 0 for each in calm), 1)
            result["target_s"] = target
            if rate is None:
                _, elapsed = asyncio.run(closed_loop(url, [whole] * 6, 2))
                rate = 0.5 * 6 / elapsed
            result["rate_per_s"] = rate
            answers = asyncio.run(open_loop(url, body, arrivals(rate, phase)))
        result["runs"][name] = [asdict(answer) for answer in answers]
        step = [each for each in answers if phase <= each.at < 2 * phase and each.first_s]
        late = [each for each in step if (each.first_s or 0) > target]
        click.echo(
            f"{name}: step of {len(step)} requests at {3 * rate:.2f}/s: first token median "
            f"{statistics.median(each.first_s or 0 for each in step):.2f} s, p99 "
            f"{quantile([each.first_s or 0 for each in step], 0.99):.2f} s, "
            f"{len(late)} later than {target} s; budgets "
            f"{sorted({str(each.budget or each.method) for each in step})}"
        )
    write(result, json_path)
    if chart is not None:
        chart.write_text(chart_svg(result), encoding="utf-8")


def arrivals(rate: float, phase: float) -> list[float]:
    """Times of a Poisson stream: a phase at `rate`, one at three times it, one at it again."""
    draw, at, times = random.Random(0), 0.0, []
    while True:
        at += draw.expovariate(3 * rate if phase <= at < 2 * phase else rate)
        if at >= 3 * phase:
            return times
        times.append(at)


@main.command()
@_bundle
@_picture
@_question
@_json
@click.option("--minutes", default=20.0, show_default=True)
@click.option("--concurrency", default=16, show_default=True)
def soak(
    bundle: Path,
    picture: Path,
    question: str,
    json_path: Path | None,
    minutes: float,
    concurrency: int,
) -> None:
    """Saturate a server, some clients leaving early, and watch its memory and its slots."""
    import psutil

    budgets = [{"budget": 64}, {"budget": 192}, {"method": "none"}]
    bodies = [body_of(picture, question, max_tokens=24, sparsevlm=plan) for plan in budgets]
    samples: list[tuple[float, float]] = []
    counts = {"answered": 0, "left": 0, "wrong": 0}
    texts: dict[int, set[str]] = {0: set(), 1: set(), 2: set()}

    async def client_of(url: str, number: int, end: float) -> None:
        draw = random.Random(number)
        async with httpx.AsyncClient(timeout=300) as client:
            while time.perf_counter() < end:
                kind = draw.randrange(3)
                if draw.random() < 0.1:
                    try:
                        await asyncio.wait_for(ask(client, url, bodies[kind], 0), draw.random())
                    except asyncio.TimeoutError:
                        counts["left"] += 1
                    continue
                answer = await ask(client, url, bodies[kind], 0)
                texts[kind].add(answer.text)
                counts["answered" if answer.status == 200 else "wrong"] += 1

    async def watch(pid: int, began: float, end: float) -> None:
        process = psutil.Process(pid)
        while time.perf_counter() < end:
            samples.append((time.perf_counter() - began, process.memory_info().rss / 1e6))
            await asyncio.sleep(min(5.0, minutes * 6))

    async def run(url: str, pid: int) -> None:
        began = time.perf_counter()
        end = began + 60 * minutes
        work = [client_of(url, number, end) for number in range(concurrency)]
        await asyncio.gather(watch(pid, began, end), *work)

    with served(bundle) as (url, pid):
        asyncio.run(run(url, pid))
        time.sleep(1)
        text = httpx.get(f"{url}/metrics", timeout=30).text
    # The first fifth warms up: allocators take what the largest batch needs.
    steady = [rss for at, rss in samples if at > 12 * minutes]
    half = len(steady) // 2
    drift = statistics.mean(steady[half:]) / statistics.mean(steady[:half]) - 1
    result = {
        "minutes": minutes,
        "concurrency": concurrency,
        **counts,
        "distinct_answers": {str(kind): len(found) for kind, found in texts.items()},
        "rss_mb_min": min(steady),
        "rss_mb_max": max(steady),
        "rss_drift": drift,
        "running_at_end": float(re.findall(r"num_requests_running (\S+)", text)[-1]),
        "waiting_at_end": float(re.findall(r"num_requests_waiting (\S+)", text)[-1]),
    }
    click.echo(json.dumps(result))
    write(result, json_path)


if __name__ == "__main__":
    main()
