"""`sparsevlm bench`: what a bundle's answers cost on this machine."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from sparsevlm_trt.runtime.bench.case import Case, Shape, read_budgets
from sparsevlm_trt.runtime.bench.contender import Contender, OursContender
from sparsevlm_trt.runtime.bench.genai import GenAiContender
from sparsevlm_trt.runtime.bench.machine import BusyMeter, describe_machine, resident_bytes
from sparsevlm_trt.runtime.bench.measure import run_rounds
from sparsevlm_trt.runtime.bench.page import bench_page, row_name
from sparsevlm_trt.runtime.bench.roofline import Ceilings, chain_bounds
from sparsevlm_trt.runtime.bench.text import bench_text
from sparsevlm_trt.runtime.bundle_report import prompt_cost, weight_bytes
from sparsevlm_trt.runtime.commands.options import debug_option, json_option
from sparsevlm_trt.runtime.console import Progress, print_json
from sparsevlm_trt.runtime.evaluation.report import write_text
from sparsevlm_trt.runtime.extras import load_attribute
from sparsevlm_trt.runtime.flops import DTYPE_BYTES
from sparsevlm_trt.runtime.memory import read_peak_bytes
from sparsevlm_trt.runtime.pruning_plan import plan_pruning
from sparsevlm_trt.runtime.threads import allowed_cpus

__all__ = ["bench"]

HF = "sparsevlm_trt.export.hf_contender:HfContender"
GENAI = "openvino-genai"
HF_DTYPES = ("bfloat16", "float32")
CEILINGS = "sparsevlm_trt.export.ceilings:measure_ceilings"


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--image", type=click.Path(path_type=Path), help="The picture asked about.")
@click.option("--question", default="What is in the picture?", show_default=True)
@click.option(
    "--shape",
    "shapes",
    multiple=True,
    metavar="VxT[xB]",
    help="A prompt of noise, without vision: V visual and T text tokens, in B rows; repeatable.",
)
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
    help="Nominal budgets, or shares such as 0.33; none is the unpruned chain.",
)
@click.option("--method", default="sparsevlm", show_default=True, help="Pruning method.")
@click.option(
    "--beside",
    multiple=True,
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Another bundle: such as its quantised form, or the model in one piece, which is not "
    "pruned; repeatable.",
)
@click.option(
    "--checkpoint",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Also run the checkpoint in transformers, bfloat16 and float32.",
)
@click.option(
    "--genai",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Also ask OpenVINO GenAI's pipeline, on what optimum-intel made of the checkpoint.",
)
@click.option(
    "--roofline", is_flag=True, help="Also tell how far each graph is from the machine's limit."
)
@click.option(
    "--twice", is_flag=True, help="Also tell what a second session of the process adds to memory."
)
@click.option("--steps", type=click.IntRange(min=1), default=16, show_default=True)
@click.option("--rounds", type=click.IntRange(min=1), default=5, show_default=True)
@click.option(
    "--threads", type=click.IntRange(min=1), help="Processor threads.  [default: allowed cores]"
)
@click.option("--out", type=click.Path(path_type=Path), metavar="FILE", help="Write JSON here.")
@click.option(
    "--page", type=click.Path(path_type=Path), metavar="FILE", help="Write charts here, one page."
)
@json_option
@debug_option
def bench(
    bundle: Path,
    *,
    image: Path | None,
    question: str,
    shapes: tuple[str, ...],
    runners: str,
    budgets: str,
    method: str,
    beside: tuple[Path, ...],
    checkpoint: Path | None,
    genai: Path | None,
    roofline: bool,
    twice: bool,
    steps: int,
    rounds: int,
    threads: int | None,
    out: Path | None,
    page: Path | None,
    as_json: bool,
) -> None:
    """Measure what answers of BUNDLE cost, all engines and budgets in turn.

    Medians of a run in which every round runs everything once. Close other programs first: the
    share of the machine that they took is part of the answer.
    """
    prompts: list[Shape | None] = [None] if image is not None else []
    prompts += [Shape.parse(spelled) for spelled in shapes]
    names = [name.strip() for name in runners.split(",") if name.strip()]
    if not names or not prompts:
        missing = "runner" if prompts else "--image or --shape"
        raise click.UsageError(f"Name at least one {missing}.")
    if genai is not None and image is None:
        raise click.UsageError("--genai answers a question about a picture: name an --image.")
    threads = threads or allowed_cpus()
    kept = read_budgets(budgets)
    start_bytes = resident_bytes()
    ours: dict[str, OursContender] = {}
    cases: list[Case] = []
    for name in names:
        for number, path in enumerate((bundle, *beside)):
            label = f"{name} {path.name}" if number else name
            one = ours[label] = OursContender(path, name, {"threads": threads}, image, question)
            prunes = number == 0 or method in one.session.bundle.manifest.plan.methods
            for budget in kept if prunes else [None]:
                chosen = "none" if budget is None else method
                cases += [Case(label, chosen, budget, shape) for shape in prompts]
    contenders: dict[str, Contender] = dict(ours)
    if checkpoint is not None:
        first = ours[names[0]]
        for label, contender in _transformers(checkpoint, first, prompts[0], threads):
            contenders[label] = contender
            cases += [Case(label, "none", None, shape) for shape in prompts]
    if genai is not None:
        assert image is not None
        contenders[GENAI] = GenAiContender(genai, image, question, threads=threads)
        cases.append(Case(GENAI, "none", None))
    busy = BusyMeter()
    with Progress("measuring", quiet=as_json) as progress:
        rows = run_rounds(contenders, cases, rounds=rounds, num_steps=steps, progress=progress)
    report: dict[str, Any] = {
        "machine": describe_machine(threads),
        "bundle": str(bundle.name),
        "rounds": rounds,
        "decode_steps": steps,
        "busy_elsewhere": busy.others(),
        "start_bytes": start_bytes,
        "peak_bytes": read_peak_bytes(),
        "rows": rows,
    }
    if twice:
        report["second_session_bytes"] = {n: ours[n].second_session_bytes() for n in names}
    if roofline:
        measure = load_attribute(CEILINGS, extra="export", who="bench --roofline")
        ceilings = {name: measure(ours[name]) for name in names}
        report["ceilings"] = {name: asdict(each) for name, each in ceilings.items()}
        report["roofline"] = list(_bounds(ours, rows, ceilings))
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        write_text(out, json.dumps(report, indent=1, sort_keys=True) + "\n")
    if page is not None:
        page.parent.mkdir(parents=True, exist_ok=True)
        write_text(page, bench_page(report))
    if as_json:
        print_json(report)
    else:
        click.echo(bench_text(report))


def _transformers(
    checkpoint: Path, ours: OursContender, shape: Shape | None, threads: int
) -> Iterator[tuple[str, Contender]]:
    """Load the checkpoint in each type, for prompts as long as ours."""
    size = ours.sample(Case("", "none", None, shape), 1)["num_tokens"]
    vision = ours.session.bundle.manifest.vision
    contender = load_attribute(HF, extra="export", who="bench --checkpoint")
    load_attribute("torch:set_num_threads", extra="export", who="bench")(threads)
    for dtype in HF_DTYPES:
        pixels = vision.image_size if vision is not None else None
        yield f"transformers:{dtype}", contender(checkpoint, dtype, int(size), pixels)


def _bounds(
    ours: Mapping[str, OursContender],
    rows: Sequence[Mapping[str, Any]],
    ceilings: Mapping[str, Ceilings],
) -> Iterator[dict[str, Any]]:
    """Hold each of the bundle's own cases to the ceilings of its engine."""
    for name, own in ceilings.items():
        manifest = ours[name].session.bundle.manifest
        weights = {graph: weight_bytes(manifest, graph) for graph in manifest.graphs}
        narrowing = DTYPE_BYTES[own.dtype] / DTYPE_BYTES[manifest.model.dtype]
        for row in rows:
            if row["contender"] != name:
                continue
            num_visual = int(row["num_visual"])
            pruning = plan_pruning(
                manifest, method=row["method"], budget=row["budget"], num_visual=num_visual or None
            )
            num_text = int(row["num_tokens"]) - num_visual
            cost = prompt_cost(manifest, pruning, num_visual=num_visual, num_text=num_text)
            for bound in chain_bounds(row, cost, weights, own, narrowing):
                yield {"case": row_name(row), **asdict(bound), "share": bound.share}
