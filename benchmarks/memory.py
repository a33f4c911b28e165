"""Hold the memory that the chain takes against a formula.

    python benchmarks/memory.py BUNDLE [--json FILE]

Each case runs in a process of its own (`sparsevlm bench`), which tells its resident memory before
the bundle was opened, and its peak. The difference should be

    weights + caches + scratch + constant

- weights: the bytes of graphs and weights, in the type that the engine computes in;
- caches: the keys and values of the prompt and the answer;
- scratch: what one layer needs at once for S tokens. Where the engine writes the scores of its
  attention down, `4 B S (S (H + 2) + 6 N + 3 M)` bytes, with heads H, hidden size N, MLP size M;
- constant: the engine itself and its copies, fitted once for each engine as the middle of what is
  left.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
from bars import end_missed

from sparsevlm_trt.calibration.weight_bytes import weight_bytes
from sparsevlm_trt.runtime.bench.contender import split_runner
from sparsevlm_trt.runtime.bundle import Bundle
from sparsevlm_trt.runtime.flops import DTYPE_BYTES
from sparsevlm_trt.runtime.model_spec import ModelSpec

RUNNERS = "onnxruntime"
SHAPES = ("144x64", "576x64", "1152x64", "2304x64", "576x64x4")
BUDGETS = ("none", "0.33")
BAR = 0.10


def measured(bundle: Path, runner: str, shape: str, budget: str) -> dict[str, Any]:
    """Run one case in a process of its own."""
    command = [str(Path(sys.executable).with_name("sparsevlm")), "bench", str(bundle)]
    command += ["--runners", runner, "--shape", shape, "--budgets", budget]
    command += ["--rounds", "1", "--steps", "2", "--json"]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    report = json.loads(done.stdout)
    (row,) = report["rows"]
    return {
        "runner": runner,
        "shape": shape,
        "budget": budget,
        "kv_bytes": row["kv_bytes"],
        "num_tokens": row["num_tokens"],
        "batch": row["batch"],
        "taken_bytes": report["peak_bytes"] - report["start_bytes"],
        "machine": report["machine"],
    }


def held_bytes(bundle: Bundle, runner: str) -> float:
    """Bytes of graphs and weights, as the engine computes with them."""
    held = bundle.manifest.model.dtype
    _, options = split_runner(runner)
    return weight_bytes(bundle) * DTYPE_BYTES[options.get("dtype", held)] / DTYPE_BYTES[held]


def scratch_bytes(model: ModelSpec, batch: float, num_tokens: float) -> float:
    """What a layer needs at once, beside weights and caches."""
    scores = num_tokens * (model.num_heads + 2)
    values = 6 * model.hidden_size + 3 * model.intermediate_size
    return 4 * batch * num_tokens * (scores + values)


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option(
    "--runners", default=RUNNERS, show_default=True, help="openvino:bfloat16, with types."
)
@click.option("--json", "json_file", type=click.Path(path_type=Path))
def main(bundle: Path, runners: str, json_file: Path | None) -> None:
    """Measure all cases and say how far the formula is off."""
    opened = Bundle.open(bundle, verify=False)
    rows: list[dict[str, Any]] = []
    for runner in runners.split(","):
        own = [measured(bundle, runner, s, b) for s in SHAPES for b in BUDGETS]
        weights = held_bytes(opened, runner)
        for row in own:
            row["weight_bytes"] = weights
            row["scratch_bytes"] = scratch_bytes(
                opened.manifest.model, row["batch"], row["num_tokens"]
            )
            parts = row["weight_bytes"] + row["kv_bytes"] + row["scratch_bytes"]
            row["rest_bytes"] = row["taken_bytes"] - parts
        constant = statistics.median(row["rest_bytes"] for row in own)
        for row in own:
            row["constant_bytes"] = constant
            row["error"] = (constant - row["rest_bytes"]) / row["taken_bytes"]
        rows += own
    for row in rows:
        click.echo(
            f"{row['runner']:<20} {row['shape']:<10} {row['budget']:<5} "
            + " ".join(
                f"{row[name] / 1e6:8.1f}"
                for name in ("weight_bytes", "kv_bytes", "scratch_bytes", "rest_bytes")
            )
            + f" {row['taken_bytes'] / 1e6:8.1f} MB, formula {row['error']:+.1%}"
        )
    if json_file is not None:
        record = {"machine": rows[0]["machine"], "rows": rows}
        json_file.write_text(json.dumps(record, indent=1, sort_keys=True) + "\n")
    if any(abs(row["error"]) > BAR for row in rows):
        end_missed(f"the formula is off by more than {BAR:.0%}")


if __name__ == "__main__":
    main()
