"""`sparsevlm bench`: what a bundle's answers cost on this machine."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from sparsevlm_trt.runtime.bench.machine import BusyMeter, describe_machine
from sparsevlm_trt.runtime.bench.measure import (
    Case,
    Contender,
    OursContender,
    run_rounds,
    split_runner,
)
from sparsevlm_trt.runtime.commands.options import debug_option, json_option
from sparsevlm_trt.runtime.console import Progress, print_json
from sparsevlm_trt.runtime.errors import InputError
from sparsevlm_trt.runtime.extras import load_attribute
from sparsevlm_trt.runtime.table import format_table
from sparsevlm_trt.runtime.threads import allowed_cpus

__all__ = ["bench"]

HF = "sparsevlm_trt.export.hf_contender:HfContender"
HF_DTYPES = ("bfloat16", "float32")


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option(
    "--image", required=True, type=click.Path(path_type=Path), help="The picture asked about."
)
@click.option("--question", default="What is in the picture?", show_default=True)
@click.option(
    "--runners",
    default="onnxruntime",
    show_default=True,
    metavar="NAME,...",
    help="Engines, with a type where one is chosen: onnxruntime,openvino:float32,openvino.",
)
@click.option(
    "--budgets",
    default="none,192,64",
    show_default=True,
    metavar="N,...",
    help="Nominal budgets; none is the unpruned chain.",
)
@click.option("--method", default="sparsevlm", show_default=True, help="Pruning method.")
@click.option(
    "--checkpoint",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Also run the checkpoint in transformers, bfloat16 and float32.",
)
@click.option("--steps", type=click.IntRange(min=1), default=16, show_default=True)
@click.option("--rounds", type=click.IntRange(min=1), default=5, show_default=True)
@click.option(
    "--threads", type=click.IntRange(min=1), help="Processor threads.  [default: allowed cores]"
)
@click.option("--out", type=click.Path(path_type=Path), metavar="FILE", help="Write JSON here.")
@json_option
@debug_option
def bench(
    bundle: Path,
    *,
    image: Path,
    question: str,
    runners: str,
    budgets: str,
    method: str,
    checkpoint: Path | None,
    steps: int,
    rounds: int,
    threads: int | None,
    out: Path | None,
    as_json: bool,
) -> None:
    """Measure what answers of BUNDLE cost, all engines and budgets in turn.

    Medians of a run in which every round runs everything once. Close other programs first: the
    share of the machine that they took is part of the answer.
    """
    threads = threads or allowed_cpus()
    contenders: dict[str, Contender] = {}
    cases: list[Case] = []
    ours: OursContender | None = None
    for spelled in filter(None, runners.split(",")):
        name, options = split_runner(spelled)
        ours = OursContender(bundle, name, {**options, "threads": threads}, image, question)
        contenders[spelled] = ours
        cases += [
            Case(spelled, "none" if budget is None else method, budget)
            for budget in _read_budgets(budgets)
        ]
    if ours is None:
        raise click.UsageError("Name at least one runner.")
    if checkpoint is not None:
        size = ours.sample(Case("", "none", None), 1)["num_tokens"]
        vision = ours.session.bundle.manifest.vision
        contender = load_attribute(HF, extra="export", who="bench --checkpoint")
        load_attribute("torch:set_num_threads", extra="export", who="bench")(threads)
        for dtype in HF_DTYPES:
            label = f"transformers:{dtype}"
            pixels = vision.image_size if vision is not None else None
            contenders[label] = contender(checkpoint, dtype, int(size), pixels)
            cases.append(Case(label, "none", None))
    busy = BusyMeter()
    with Progress("measuring", quiet=as_json) as progress:
        rows = run_rounds(contenders, cases, rounds=rounds, num_steps=steps, progress=progress)
    report = {
        "machine": describe_machine(threads),
        "bundle": str(bundle.name),
        "rounds": rounds,
        "decode_steps": steps,
        "busy_elsewhere": busy.others(),
        "rows": rows,
    }
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        partial = out.with_name(f".{out.name}.partial")
        partial.write_text(json.dumps(report, indent=1, sort_keys=True) + "\n", encoding="utf-8")
        partial.replace(out)
    if as_json:
        print_json(report)
    else:
        click.echo(_table(report))


def _read_budgets(spelled: str) -> list[int | None]:
    """Read `none,192,64`."""
    try:
        return [None if each == "none" else int(each) for each in spelled.split(",")]
    except ValueError as error:
        raise InputError(
            f"budgets | {error} | expected numbers and none | write them like none,192,64"
        ) from error


def _table(report: dict[str, Any]) -> str:
    """The rows for people, and what the figures are worth."""
    header = ["engine", "budget", "vision", "language", "±", "decode", "±", "KV MB", "load ms"]
    rows = [
        (
            row["contender"],
            row["budget"] or "none",
            f"{row['vision_ms']:.1f}",
            f"{row['language_ms']:.1f}",
            f"{row['language_ms_spread']:.0%}",
            f"{row['decode_ms']:.2f}",
            f"{row['decode_ms_spread']:.0%}",
            f"{row['kv_bytes'] / 1e6:.1f}",
            f"{row['load_ms']:.0f}",
        )
        for row in report["rows"]
    ]
    others = report["busy_elsewhere"]
    told = "unknown" if others is None else f"{others:.0%}"
    machine = report["machine"]
    return (
        f"{machine['cpu']}, {machine['threads']} threads; medians of {report['rounds']} rounds in "
        f"ms, decode per token; other programs took {told} of the machine\n"
        + format_table(header, rows)
    )
