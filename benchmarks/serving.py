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
import json
import random
import re
import statistics
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
import httpx
from serving_chart import chart_svg
from serving_client import (
    ask,
    body_of,
    bundle_argument,
    closed_loop,
    json_option,
    open_loop,
    picture_argument,
    quantile,
    question_argument,
    served,
    write,
)
from serving_profile import profile


@click.group()
def main() -> None:
    """Load a served bundle."""


main.add_command(profile)


@main.command()
@bundle_argument
@picture_argument
@question_argument
@json_option
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
@bundle_argument
@picture_argument
@question_argument
@json_option
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
@bundle_argument
@picture_argument
@question_argument
@json_option
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
