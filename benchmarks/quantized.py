"""Time quantised bundles against the one they were made from, in one interleaved run.

    python benchmarks/quantized.py SOURCE QUANTISED... --image FILE [--runners NAME,...]

Every round runs every bundle on every engine at every budget once, so that a drift of the machine
hits all alike.
Prints medians of the language model's prefill and of a decode step, the size of the weights, and
each as a multiple of the source's.
"""

from __future__ import annotations

import json
import os
import statistics
from importlib import metadata
from pathlib import Path

import click

from sparsevlm_trt.calibration.weight_bytes import weight_bytes
from sparsevlm_trt.runtime import Session
from sparsevlm_trt.runtime.bench.contender import split_runner
from sparsevlm_trt.runtime.cpu import read_cpu
from sparsevlm_trt.runtime.table import format_table
from sparsevlm_trt.runtime.threads import allowed_cpus

BUDGETS = (None, 192, 64)
NEW_TOKENS = 17
QUESTION = "What digit is blue?"


def run_once(session: Session, image: Path, budget: int | None) -> tuple[float, float]:
    """Milliseconds of the language model's prefill, and of a decode step."""
    content = [{"type": "image"}, {"type": "text", "text": QUESTION}]
    result = session.generate(
        images=[image],
        messages=[{"role": "user", "content": content}],
        method="none" if budget is None else None,
        budget=budget,
        max_new_tokens=NEW_TOKENS,
        stop_tokens=(),
    )
    trace = result.trace
    vision_ms = sum(ms for step, ms in trace.timings_ms if step == "vision")
    return trace.prefill_ms - vision_ms, statistics.median(trace.decode_ms)


@click.command()
@click.argument("bundles", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--image", required=True, type=click.Path(path_type=Path))
@click.option("--runners", default="onnxruntime", show_default=True)
@click.option("--rounds", type=click.IntRange(min=1), default=5, show_default=True)
@click.option("--threads", type=click.IntRange(min=1))
@click.option("--json", "out", type=click.Path(path_type=Path))
def main(
    bundles: tuple[Path, ...],
    image: Path,
    runners: str,
    rounds: int,
    threads: int | None,
    out: Path | None,
) -> None:
    """Time quantised BUNDLES against the first one, on the first engine."""
    sessions = {}
    for runner in runners.split(","):
        engine, options = split_runner(runner)
        for path in bundles:
            name = f"{path.name}, {runner}" if "," in runners else path.name
            sessions[name] = Session.load(
                path, engine, verify=False, image_cache_bytes=0, threads=threads, **options
            )
    samples: dict[tuple[str, int | None], list[tuple[float, float]]] = {}
    for number in range(rounds + 1):
        for name, session in sessions.items():
            for budget in BUDGETS:
                sample = run_once(session, image, budget)
                if number:  # the first round warms up
                    samples.setdefault((name, budget), []).append(sample)
    first = next(iter(sessions))
    size = {name: weight_bytes(session.bundle) for name, session in sessions.items()}
    rows, found = [], []
    for (name, budget), times in samples.items():
        prefill, decode = (statistics.median(side) for side in zip(*times, strict=True))
        base = samples[first, budget]
        gains = [
            statistics.median(side) / mine
            for side, mine in zip(zip(*base, strict=True), (prefill, decode), strict=True)
        ]
        plan = "none" if budget is None else str(budget)
        rows.append(
            [
                name,
                plan,
                f"{prefill:.0f} ms",
                f"{gains[0]:.2f} x",
                f"{decode:.1f} ms",
                f"{gains[1]:.2f} x",
                f"{size[name] / size[first]:.3f}",
            ]
        )
        found.append(
            {
                "bundle": name,
                "budget": budget,
                "prefill_ms": prefill,
                "decode_ms": decode,
                "weight_bytes": size[name],
            }
        )
    machine = {
        "processor": read_cpu().model,
        "threads": threads or allowed_cpus(),
        "load": os.getloadavg()[0],
        "onnxruntime": metadata.version("onnxruntime"),
        "rounds": rounds,
    }
    click.echo(" ".join(f"{key} {value}" for key, value in machine.items()))
    click.echo(
        format_table(["bundle", "budget", "prefill", "gain", "decode", "gain", "weights"], rows)
    )
    if out is not None:
        out.write_text(json.dumps({"machine": machine, "results": found}, indent=1) + "\n")


if __name__ == "__main__":
    main()
