"""How faithful fast engines are: their answers and kept patches against ONNX Runtime's float32.

    python benchmarks/fidelity.py BUNDLE --data questions.jsonl [--engine RUNNER[=BUNDLE]]...

All answer every question at every budget, its survivors numbered each way, in turn.
The bars of a faithful engine: 97 % of the kept patches, 98.5 % of the answers.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import click
from bars import end_missed

from sparsevlm_ops.methods import Positions
from sparsevlm_trt.runtime import Result, Session
from sparsevlm_trt.runtime.bench.case import read_budgets
from sparsevlm_trt.runtime.bench.contender import computed_dtype, split_runner
from sparsevlm_trt.runtime.bench.machine import describe_machine
from sparsevlm_trt.runtime.console import Progress
from sparsevlm_trt.runtime.evaluation.asking import ask_once
from sparsevlm_trt.runtime.evaluation.intervals import wilson
from sparsevlm_trt.runtime.evaluation.metrics import automatic
from sparsevlm_trt.runtime.evaluation.overlap import mean_overlap
from sparsevlm_trt.runtime.evaluation.questions import Question, read_questions
from sparsevlm_trt.runtime.threads import allowed_cpus

BARS = {"overlap": 0.97, "answers": 0.985}
Answered = tuple[Question, Result, Result]  # in float32, then by a fast engine


def open_engine(bundle: Path, engine: str, threads: int) -> Session:
    """Open a bundle, or its quantised form that follows an equals sign, on a runner."""
    runner, _, other = engine.partition("=")
    name, options = split_runner(runner)
    path = Path(other) if other else bundle
    return Session.load(path, name, verify=False, threads=threads, **options)


def dtype_of(session: Session) -> str:
    """The scheme of a quantised bundle and what the rest is computed in."""
    quantized, rest = session.bundle.manifest.quantization, computed_dtype(session)
    return f"{quantized.scheme} and {rest}" if quantized else rest


def compare(answered: Sequence[Answered]) -> dict[str, Any]:
    """Hold the second answer to each question against the first, and both against the labels."""
    equal = sum(first.text == second.text for _, first, second in answered)
    right = [
        sum(automatic(question, both[side].text or "") for question, *both in answered)
        for side in range(2)
    ]
    interval = wilson(equal, len(answered))
    return {
        "questions": len(answered),
        "equal": equal,
        "interval": [interval.low, interval.high],
        "right": right,
        "overlap": mean_overlap((first.trace, second.trace) for _, first, second in answered),
    }


def is_faithful(row: dict[str, Any]) -> bool:
    """Whether a row meets both bars."""
    kept = row["overlap"] is None or row["overlap"] >= BARS["overlap"]
    return bool(kept and row["equal"] / row["questions"] >= BARS["answers"])


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--data", required=True, type=click.Path(path_type=Path))
@click.option("--engine", "engines", multiple=True, default=["openvino"], show_default=True)
@click.option("--budgets", default="192,64", show_default=True)
@click.option(
    "--positions",
    "numberings",
    type=click.Choice(["compact", "original"]),
    multiple=True,
    default=["compact"],
    show_default=True,
)
@click.option("--limit", type=int)
@click.option("--json", "json_file", type=click.Path(path_type=Path))
def main(
    bundle: Path,
    data: Path,
    engines: Sequence[str],
    budgets: str,
    numberings: Sequence[Positions],
    limit: int | None,
    json_file: Path | None,
) -> None:
    """Compare the engines' answers with those of ONNX Runtime."""
    threads = allowed_cpus()
    questions = read_questions(data, limit=limit).questions
    cases = [(way, budget) for way in numberings for budget in read_budgets(budgets)]
    found: dict[tuple[str, Positions, float | None], list[Answered]] = {
        (engine, *case): [] for engine in engines for case in cases
    }
    with ExitStack() as stack, Progress("comparing") as progress:
        exact = stack.enter_context(Session.load(bundle, threads=threads))
        opened = {e: stack.enter_context(open_engine(bundle, e, threads)) for e in engines}
        for number, question in enumerate(questions):
            progress(question.id, number, len(questions))
            for way, budget in cases:
                first = ask_once(exact, question, budget, 8, positions=way)
                for engine, session in opened.items():
                    second = ask_once(session, question, budget, 8, positions=way)
                    found[engine, way, budget].append((question, first, second))
        dtypes = {engine: dtype_of(session) for engine, session in opened.items()}
    rows = [
        {
            "engine": engine.partition(":")[0].partition("=")[0],
            "dtype": dtypes[engine],
            "positions": way,
            "budget": budget,
            **compare(answered),
        }
        for (engine, way, budget), answered in found.items()
    ]
    if json_file is not None:
        record = {"machine": describe_machine(threads), "rows": rows}
        json_file.parent.mkdir(parents=True, exist_ok=True)
        json_file.write_text(json.dumps(record, indent=1, sort_keys=True) + "\n")
    for row in rows:
        kept = "-" if row["overlap"] is None else f"{row['overlap']:.1%}"
        click.echo(
            f"{row['engine']} {row['dtype']}, positions {row['positions']}, at "
            f"{row['budget'] or 'none'}: {row['equal']} of {row['questions']} answers equal "
            f"({row['equal'] / row['questions']:.1%}), {row['right'][1]:.0f} right in place of "
            f"{row['right'][0]:.0f}, kept patches {kept}"
        )
    missed = sum(not is_faithful(row) for row in rows)
    if missed:
        end_missed(f"{missed} of {len(rows)} are not faithful")


if __name__ == "__main__":
    main()
