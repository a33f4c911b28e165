"""Hold the chain against the model in one piece, both unpruned.

    python benchmarks/one_piece.py BUNDLE ONE-PIECE [--runners NAME,...] [--json FILE]

What a process loads first reads its weights from other pages of memory than what it loads later:
on an EPYC the same bundle, loaded twice, decoded 3 to 4 % faster the second time. So `sparsevlm
bench` runs twice, with the two in both orders; what counts is the geometric mean of the ratios.
"""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
from bars import end_missed

BARS = {"language_ms": 1.03, "decode_ms": 1.05}
SHAPE = "576x64"


def measured(first: Path, second: Path, runners: str, rounds: int, steps: int) -> dict[str, Any]:
    """Run both in turns, in a process of their own."""
    command = [str(Path(sys.executable).with_name("sparsevlm")), "bench", str(first)]
    command += ["--beside", str(second), "--runners", runners, "--shape", SHAPE]
    command += ["--budgets", "none", "--rounds", str(rounds), "--steps", str(steps), "--json"]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    report: dict[str, Any] = json.loads(done.stdout)
    return report


def ratios(report: dict[str, Any], name: str, figure: str) -> dict[str, float]:
    """Times of the bundle of that name as a share of the other's, by runner."""
    found: dict[str, dict[bool, float]] = {}
    for row in report["rows"]:
        runner, _, beside = row["contender"].partition(" ")
        is_chain = (beside or report["bundle"]) == name
        found.setdefault(runner, {})[is_chain] = row[figure]
    return {runner: times[True] / times[False] for runner, times in found.items()}


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@click.argument("one_piece", type=click.Path(path_type=Path))
@click.option("--runners", default="onnxruntime,openvino:float32", show_default=True)
@click.option("--rounds", default=7, show_default=True)
@click.option("--steps", default=32, show_default=True)
@click.option("--json", "json_file", type=click.Path(path_type=Path))
def main(
    bundle: Path, one_piece: Path, runners: str, rounds: int, steps: int, json_file: Path | None
) -> None:
    """Measure in both orders and say how much longer the chain takes."""
    reports = [
        measured(first, second, runners, rounds, steps)
        for first, second in ((bundle, one_piece), (one_piece, bundle))
    ]
    rows: list[dict[str, Any]] = []
    missed = []
    for figure, bar in BARS.items():
        first, second = (ratios(report, bundle.resolve().name, figure) for report in reports)
        for runner, ratio in first.items():
            mean = math.sqrt(ratio * second[runner])
            rows.append(
                {
                    "runner": runner,
                    "figure": figure,
                    "loaded_first": ratio,
                    "loaded_second": second[runner],
                    "mean": mean,
                }
            )
            click.echo(
                f"{runner:<20} {figure:<12} {ratio:.3f} {second[runner]:.3f} mean {mean:.3f}, "
                f"bar {bar:.2f}"
            )
            if mean > bar:
                missed.append(f"{runner} {figure}")
    if json_file is not None:
        record = {"rows": rows}
        record |= {key: reports[0][key] for key in ("machine", "rounds", "busy_elsewhere")}
        json_file.write_text(json.dumps(record, indent=1, sort_keys=True) + "\n")
    if missed:
        end_missed(f"slower than the bar: {', '.join(missed)}")


if __name__ == "__main__":
    main()
