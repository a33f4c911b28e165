"""Time the chain on a GPU against transformers, and compare their tokens, in one process.

    python benchmarks/gpu.py RESULT.json [--shape-bundle DIR] [--demo CHECKPOINT] [--device cuda]

*Shape*: a bundle of `benchmarks/shape_bundle.py` (LLaVA-1.5-7B's shape, noise for weights,
float16). Every round runs every budget and transformers' own model once, so that a drift of the
machine hits all alike: vision, prefill and decode, at batch 1 and at a larger one; memory; which
kernels the time went to; which nodes fell back to the CPU.
*Demo*: the trained demo model. Tokens and kept patches of the float16 chain on the device against
the same bundle on the CPU; tokens against transformers in float16 on the device and in float32 on
the CPU.

Every section has a time limit, and what one of them loses is its own. PyTorch is imported first:
it brings the CUDA libraries that ONNX Runtime needs.
"""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch  # before anything that loads onnxruntime

from gpu_chain import (  # isort: skip
    hf_inputs,
    median_of,
    open_session,
    placement,
    timed,
    used_gpu_bytes,
)
from gpu_report import Report, compare, table
from gpu_torch import TorchModel
from shape_bundle import SHAPES, fill

from sparsevlm_trt.runtime import Session
from sparsevlm_trt.runtime.packages import installed_version
from sparsevlm_trt.runtime.threads import allowed_cpus

BUDGETS = (None, 192, 128, 64)
SAMPLE = Path(__file__).parents[1] / "examples/digits-vlm/sample"
PACKAGES = ("torch", "transformers", "onnxruntime", "onnxruntime-gpu", "numpy")
_QUESTIONS = 4  # of the sample: the CPU answers each of them several times
_KERNELS = 14  # rows of the profile


def machine(device: str) -> dict[str, Any]:
    """What the figures are taken on."""
    facts: dict[str, Any] = {name: installed_version(name) for name in PACKAGES}
    facts |= {"python": platform.python_version(), "cores": allowed_cpus(), "device": device}
    if device == "cuda":
        facts |= {
            "gpu": torch.cuda.get_device_name(0),
            "gpu_bytes": torch.cuda.get_device_properties(0).total_memory,
            "cuda": torch.version.cuda,
        }
    return facts


def spell(budget: int | None) -> str:
    """A budget as a key."""
    return "none" if budget is None else str(budget)


def measure_shape(
    found: dict[str, Any],
    session: Session,
    baseline: Callable[[], TorchModel],
    *,
    rounds: int,
    steps: int,
    num_text: int,
    batch: int,
) -> TorchModel | None:
    """Budgets in turn, then in rounds with transformers between them; returns its model."""
    assert session.bundle.manifest.vision is not None
    num_visual = session.bundle.manifest.vision.num_visual
    found |= {"text": num_text, "visual": num_visual, "steps": steps, "rounds": rounds}
    found["batch"] = batch
    # From the smallest up: what is used after each is that budget's peak.
    peaks = found["used_gpu_bytes"] = {"loaded": used_gpu_bytes()}
    for budget in reversed(BUDGETS):
        timed(session, budget, num_text, steps, batch)
        peaks[spell(budget)] = used_gpu_bytes()
    model = None
    try:
        model = baseline()
        model.timed(num_text, num_visual, steps, batch)
    except Exception as error:
        found["transformers_error"] = f"{type(error).__name__}: {error}"
    ours: dict[str, list[Any]] = {spell(budget): [] for budget in BUDGETS}
    theirs: list[dict[str, float]] = []
    for _ in range(rounds):
        for budget in BUDGETS:
            ours[spell(budget)].append(timed(session, budget, num_text, steps, batch))
        if model is not None:
            theirs.append(model.timed(num_text, num_visual, steps, batch))
    found["chain"] = {name: median_of(samples) for name, samples in ours.items()}
    if theirs:
        names = theirs[0]
        found["transformers"] = {
            name: float(np.median([each[name] for each in theirs])) for name in names
        } | {f"least_{name}": min(each[name] for each in theirs) for name in names}
    if torch.cuda.is_available():
        found["transformers_peak_bytes"] = torch.cuda.max_memory_allocated()
    return model


def measure_kernels(found: dict[str, Any], run: Callable[[], object]) -> None:
    """Which kernels the device's time went to, by name."""
    from torch.profiler import ProfilerActivity, profile

    activity = ProfilerActivity.CUDA if torch.cuda.is_available() else ProfilerActivity.CPU
    with profile(activities=[activity]) as profiled:
        run()
    rows = [
        (event.key, event.count, event.self_device_time_total or event.self_cpu_time_total)
        for event in profiled.key_averages()
    ]
    rows.sort(key=lambda row: -row[2])
    found["total_us"] = sum(row[2] for row in rows)
    found["launches"] = sum(row[1] for row in rows)
    found["kernels"] = [[name[:120], count, us] for name, count, us in rows[:_KERNELS]]


def measure_demo(
    found: dict[str, Any], checkpoint: Path, bundle: Path, device: str, tokens: int
) -> None:
    """Tokens and decisions of the chain on the device against the three references."""
    if not (bundle / "bundle.json").is_file():
        from sparsevlm_trt.export import export_bundle

        started = time.perf_counter()
        export_bundle(checkpoint, bundle, dtype="float16", budget=192)
        found["export_seconds"] = time.perf_counter() - started
    questions = [
        entry["question"] for entry in json.loads((SAMPLE / "questions.json").read_text())
    ]
    answers: dict[str, dict[str, Any]] = {}
    found["questions"] = questions
    try:
        with open_session(bundle, device) as session:
            ask(session, questions, tokens, answers, f"chain {device}")
            prompts = [hf_inputs(session, SAMPLE / "scene.png", each) for each in questions]
        for where, dtype in ((device, "float16"), ("cpu", "float32")):
            model = TorchModel.load(checkpoint, where, dtype)
            for number, (ids, pixels) in enumerate(prompts):
                made, logits = model.generate(ids, pixels, tokens)
                answers[f"none {number}"][f"transformers {where} {dtype}"] = {
                    "tokens": made,
                    "logits": logits[0],
                }
        with open_session(bundle, "cpu") as session:
            ask(session, questions, tokens, answers, "chain cpu float16")
    finally:  # what is there when the time is over
        found["comparisons"] = compare(answers, f"chain {device}")
        found["answers"] = {
            key: {name: [side["tokens"], side.get("text")] for name, side in sides.items()}
            for key, sides in answers.items()
        }


def ask(
    session: Session,
    questions: list[str],
    tokens: int,
    answers: dict[str, dict[str, Any]],
    name: str,
) -> None:
    """Answer every question at every budget."""
    for budget in BUDGETS:
        method: dict[str, Any] = {"method": "none"} if budget is None else {"budget": budget}
        for number, question in enumerate(questions):
            content = [{"type": "image"}, {"type": "text", "text": question}]
            result = session.generate(
                images=[str(SAMPLE / "scene.png")],
                messages=[{"role": "user", "content": content}],
                max_new_tokens=tokens,
                stop_tokens=(),
                **method,
            )
            answers.setdefault(f"{spell(budget)} {number}", {})[name] = {
                "tokens": result.tokens,
                "text": result.text,
                "kept": [step.kept.tolist() for step in result.trace.stages],
                "logits": result.prefill_logits,
            }


@click.command()
@click.argument("result", type=click.Path(path_type=Path))
@click.option("--shape-bundle", type=click.Path(exists=True, path_type=Path))
@click.option("--shape", type=click.Choice(sorted(SHAPES)), default="7b", show_default=True)
@click.option("--demo", type=click.Path(exists=True, path_type=Path), help="Its checkpoint.")
@click.option("--demo-bundle", type=click.Path(path_type=Path), help="Made there if missing.")
@click.option("--device", type=click.Choice(["cuda", "cpu"]), default="cuda", show_default=True)
@click.option("--rounds", default=7, show_default=True)
@click.option("--steps", default=24, show_default=True, help="Decode steps.")
@click.option("--text", "num_text", default=64, show_default=True, help="Tokens beside visual.")
@click.option("--batch", default=8, show_default=True, help="Rows of the second timing.")
@click.option("--demo-seconds", default=150, show_default=True, help="Its export is in them.")
def main(
    result: Path,
    shape_bundle: Path | None,
    shape: str,
    demo: Path | None,
    demo_bundle: Path | None,
    device: str,
    rounds: int,
    steps: int,
    num_text: int,
    batch: int,
    demo_seconds: int,
) -> None:
    """Measure, write RESULT as JSON, and print a table."""
    report = Report(result)
    with report.section("machine", 30) as found:
        found |= machine(device)
    if demo is not None:
        bundle = demo_bundle or demo.with_name(f"{demo.name}-float16")
        with report.section("demo", demo_seconds) as found:
            measure_demo(found, demo, bundle, device, tokens=16)
    if shape_bundle is not None:
        _shape_sections(report, shape_bundle, shape, device, rounds, steps, num_text, batch)
    click.echo(" ".join(f"{name} {value}" for name, value in report.values["machine"].items()))
    click.echo(table(report.values))


def _shape_sections(
    report: Report,
    bundle: Path,
    shape: str,
    device: str,
    rounds: int,
    steps: int,
    num_text: int,
    batch: int,
) -> None:
    session: Session | None = None
    with report.section("load", 120) as found:
        if not (bundle / "graphs/weights").is_dir():
            found["filled_bytes"] = fill(bundle)
        started = time.perf_counter()
        session = open_session(bundle, device)
        found["session_seconds"] = time.perf_counter() - started
    if session is None:
        return
    model: TorchModel | None = None
    with report.section("shape", 100) as found:
        model = measure_shape(
            found,
            session,
            lambda: TorchModel.of_shape(SHAPES[shape](), device),
            rounds=rounds,
            steps=steps,
            num_text=num_text,
            batch=1,
        )
    for budget in (None, 64):
        with report.section(f"kernels_{spell(budget)}", 40) as found:
            measure_kernels(found, lambda b=budget: timed(session, b, num_text, 4, 1))
    with report.section(f"batch_{batch}", 60) as found:
        measure_shape(
            found,
            session,
            lambda: model or TorchModel.of_shape(SHAPES[shape](), device),
            rounds=max(1, rounds // 2),
            steps=max(2, steps // 2),
            num_text=num_text,
            batch=batch,
        )
    with report.section("placement", 60) as found:
        graphs = found["graphs"] = {}
        stage = session.bundle.manifest.stages[0].graph
        for name in ("vision", "raters", stage, "rater_rows", "prune_sparsevlm", "head"):
            graphs[name] = placement(session.bundle.graph_path(name), device)


if __name__ == "__main__":
    main()
