"""How faithful a fast engine is: its answers and kept patches against ONNX Runtime's float32.

    python benchmarks/fidelity.py BUNDLE --data questions.jsonl [--runner openvino] [--fast BUNDLE]

Both answer every question at every budget, in turn. The bars of a faithful engine: 97 % of the
kept patches, 98.5 % of the answers.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
from bars import end_missed

from sparsevlm_trt.runtime import Result, Session
from sparsevlm_trt.runtime.bench.case import read_budgets
from sparsevlm_trt.runtime.bench.contender import computed_dtype, split_runner
from sparsevlm_trt.runtime.bench.machine import describe_machine
from sparsevlm_trt.runtime.console import Progress
from sparsevlm_trt.runtime.evaluation.asking import ask_once
from sparsevlm_trt.runtime.evaluation.intervals import wilson
from sparsevlm_trt.runtime.evaluation.overlap import mean_overlap
from sparsevlm_trt.runtime.evaluation.questions import read_questions
from sparsevlm_trt.runtime.threads import allowed_cpus

BARS = {"overlap": 0.97, "answers": 0.985}


def compare(budget: float | None, pairs: Sequence[tuple[Result, Result]]) -> dict[str, Any]:
    """Hold the second of each pair against the first."""
    equal = sum(first.text == second.text for first, second in pairs)
    interval = wilson(equal, len(pairs))
    return {
        "budget": budget,
        "questions": len(pairs),
        "equal": equal,
        "interval": [interval.low, interval.high],
        "overlap": mean_overlap((first.trace, second.trace) for first, second in pairs),
    }


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--data", required=True, type=click.Path(path_type=Path))
@click.option("--runner", default="openvino", show_default=True)
@click.option("--fast", "other", type=click.Path(path_type=Path), help="Its quantised form.")
@click.option("--budgets", default="192,64", show_default=True)
@click.option("--limit", type=int)
@click.option("--json", "json_file", type=click.Path(path_type=Path))
def main(
    bundle: Path,
    data: Path,
    runner: str,
    other: Path | None,
    budgets: str,
    limit: int | None,
    json_file: Path | None,
) -> None:
    """Compare the engine's answers with those of ONNX Runtime."""
    threads = allowed_cpus()
    name, options = split_runner(runner)
    questions = read_questions(data, limit=limit).questions
    with (
        Session.load(bundle, threads=threads) as exact,
        Session.load(other or bundle, name, verify=False, threads=threads, **options) as fast,
        Progress("comparing") as progress,
    ):
        found: dict[float | None, list[tuple[Result, Result]]] = {
            budget: [] for budget in read_budgets(budgets)
        }
        for number, question in enumerate(questions):
            progress(question.id, number, len(questions))
            for budget, pairs in found.items():
                first, second = (ask_once(s, question, budget, 8) for s in (exact, fast))
                pairs.append((first, second))
        quantized = fast.bundle.manifest.quantization
        dtype = quantized.scheme if quantized else computed_dtype(fast)
    rows = [compare(budget, pairs) for budget, pairs in found.items()]
    record = {
        "machine": describe_machine(threads),
        "runner": name,
        "dtype": dtype,
        "rows": rows,
    }
    if json_file is not None:
        json_file.parent.mkdir(parents=True, exist_ok=True)
        json_file.write_text(json.dumps(record, indent=1, sort_keys=True) + "\n")
    missed = []
    for row in rows:
        share, overlap = row["equal"] / row["questions"], row["overlap"]
        kept = "-" if overlap is None else f"{overlap:.1%}"
        click.echo(
            f"{name} {dtype} at {row['budget'] or 'none'}: {row['equal']} of "
            f"{row['questions']} answers equal ({share:.1%}), kept patches {kept}"
        )
        if share < BARS["answers"] or (overlap is not None and overlap < BARS["overlap"]):
            missed.append(str(row["budget"]))
    if missed:
        end_missed(f"not faithful at {', '.join(missed)}")


if __name__ == "__main__":
    main()
