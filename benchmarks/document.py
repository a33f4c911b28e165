"""Write the tables of docs/benchmarks.md and others from the results beside this file.

    python benchmarks/document.py [--check]

A table stands between the lines `<!-- results/NAME.json -->` and `<!-- end -->`; the text around
them is written by hand. `--check` writes nothing and fails where the page is not what it would
write.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from sparsevlm_trt.runtime.bench.page import row_name
from sparsevlm_trt.runtime.bench.roofline import DECODE

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs/benchmarks.md"
PAGES = (PAGE, ROOT / "docs/calibration.md")
RESULTS = Path(__file__).parent / "results"
REGION = re.compile(r"(<!-- results/([\w.-]+)\.json -->\n).*?(<!-- end -->)", re.DOTALL)

Result = Mapping[str, Any]


def markdown(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table."""
    lines = [header, ["---"] * len(header), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def taken_on(result: Result) -> str:
    """A line that names the machine and the versions."""
    machine = result["machine"]
    versions = machine.get("versions") or {
        name: machine[name] for name in ("onnxruntime", "numpy") if name in machine
    }
    told = ", ".join(f"{name} {version}" for name, version in versions.items())
    flags = ", ".join(machine.get("instructions", ())) or None
    cpu = machine["cpu"] + (f" ({flags})" if flags else "")
    busy = result.get("busy_elsewhere")
    quiet = "" if busy is None else f"; other programs took {busy:.0%} of the machine"
    return (
        f"*{cpu}, {machine['threads']} threads; Python {machine['python']}, {told}; medians of "
        f"{result['rounds']} rounds{quiet}.*\n\n"
    )


def chain(result: Result) -> str:
    """The chain, pruned against unpruned."""
    header = ["text tokens", "budget", "prefill ms", "speed-up", "by FLOPs", "gain", "host"]
    header += ["decode ms", "host", "KV MB"]
    return taken_on(result) + markdown(
        header,
        (
            [
                f"{row['text']}",
                "none" if row["budget"] is None else f"{row['budget']}",
                f"{row['prefill_ms']:.0f}",
                f"{row['speedup']:.2f}",
                f"{row['flop_ratio']:.2f}",
                f"{row['gain']:.2f}",
                f"{row['host_prefill']:.1%}",
                f"{row['decode_ms']:.1f}",
                f"{row['host_decode']:.1%}",
                f"{row['kv_mb']:.1f}",
            ]
            for row in result["rows"]
        ),
    )


def engines(result: Result) -> str:
    """TensorRT-RTX engines of a 7B shape, and those of the demo model that have weights."""
    header = ["model", "graph", "weights MB", "plan MB", "over weights", "peak memory MB"]
    header += ["over the forecast", "attention", "built in s"]
    weighty = [row for row in result["demo"] if row["weight_bytes"] > 1e5]
    return markdown(
        header,
        (
            [
                model,
                row["graph"],
                f"{row['weight_bytes'] / 1e6:.1f}",
                f"{row['plan_bytes'] / 1e6:.1f}",
                f"{row['plan_over_weights']:+.1%}" if row["weight_bytes"] > 1e5 else "-",
                f"{row['peak_bytes'] / 1e6:.0f}",
                f"{row['peak_over_forecast']:+.1%}",
                row["attention"] or "-",
                f"{row['build_ms'] / 1e3:.0f}",
            ]
            for model, rows in (("7B", result["7b"]), ("demo", weighty))
            for row in rows
        ),
    )


def engines_quantized(result: Result) -> str:
    """What quantised bundles weigh in TensorRT's plans, all engines of a scheme together."""
    order = ("float16", "int8", "int8-weight", "fp8", "int4-weight")
    header = ["scheme", "weights MB", "weights in the plans MB", "plans MB", "the rest MB"]
    return markdown(
        header,
        (
            [scheme, *(f"{size:.1f}" for size in (weights, kept, plans, plans - kept))]
            for scheme in order
            for weights, kept, plans in [
                [
                    sum(row[key] for row in result["quantized"][scheme]) / 1e6
                    for key in ("weight_bytes", "kept_bytes", "plan_bytes")
                ]
            ]
        ),
    )


def export_7b(result: Result) -> str:
    """Exporting a 7B model."""
    sizes = f"{result['bundle_gb']:.2f} / {result['weights_gb']:.2f} GB"
    return markdown(
        ["", "measured", "bar"],
        [
            ["peak memory (RSS)", f"{result['peak_rss_gb']:.1f} GB", "10 GB"],
            ["time", f"{result['minutes']:.1f} minutes", "15 minutes"],
            ["bundle over weights", f"{sizes} = {result['disk_ratio']:.3f}", "1.05"],
        ],
    )


def contenders(result: Result) -> str:
    """Engines, budgets and others in turn, on one picture."""
    first = result["rows"][0]
    header = ["", "budget", "first token ms", "language model ms", "±", "decode ms", "±"]
    header += ["KV MB", "loading ms", "against the first row: prefill", "decode"]
    return taken_on(result) + markdown(
        header,
        (
            [
                row["contender"],
                "none" if row["budget"] is None else f"{row['budget']}",
                f"{row['first_token_ms']:.0f}",
                f"{row['language_ms']:.0f}",
                f"{row['language_ms_spread']:.0%}",
                f"{row['decode_ms']:.1f}",
                f"{row['decode_ms_spread']:.0%}",
                f"{row['kv_bytes'] / 1e6:.1f}" if "kv_bytes" in row else "-",
                f"{row['load_ms']:.0f}",
                f"x {first['language_ms'] / row['language_ms']:.2f}",
                f"x {first['decode_ms'] / row['decode_ms']:.2f}",
            ]
            for row in result["rows"]
        ),
    )


def one_piece(result: Result) -> str:
    """The chain's times as shares of the uncut model's."""
    header = ["engine", "", "chain loaded first", "loaded second", "mean"]
    named = {"language_ms": "prefill", "decode_ms": "decode step"}
    return taken_on(result) + markdown(
        header,
        (
            [
                row["runner"],
                named[row["figure"]],
                *(f"x {row[key]:.3f}" for key in ("loaded_first", "loaded_second", "mean")),
            ]
            for row in result["rows"]
        ),
    )


def growth(result: Result) -> str:
    """How cost grows with the prompt: time of the language model over its operations."""
    flops: dict[str, float] = {}
    for bound in result["roofline"]:
        if bound["graph"] != DECODE:
            flops[bound["case"]] = flops.get(bound["case"], 0.0) + bound["flops"]
    header = ["prompt (visual x text x rows)", "budget", "prefill ms", "GFLOP", "GFLOP/s"]
    header += ["decode ms", "tokens/s", "KV MB"]
    return taken_on(result) + markdown(
        header,
        (
            [
                row["shape"],
                "none" if row["budget"] is None else f"{row['budget']}",
                f"{row['language_ms']:.0f}",
                f"{total / 1e9:.0f}",
                f"{total / row['language_ms'] / 1e6:.0f}",
                f"{row['decode_ms']:.1f}",
                f"{row['tokens_per_s']:.1f}",
                f"{row['kv_bytes'] / 1e6:.1f}",
            ]
            for row in result["rows"]
            for total in [flops[row_name(row)]]
        ),
    )


def fidelity(result: Result) -> str:
    """Fast engines against ONNX Runtime's float32, on the same questions."""
    header = ["engine", "positions", "budget", "questions", "answers equal", "95 %"]
    header += ["kept patches equal", "right", "in float32"]
    return markdown(
        header,
        (
            [
                f"{row['engine']}, {row['dtype']}",
                row["positions"],
                "none" if row["budget"] is None else f"{row['budget']}",
                f"{row['questions']}",
                f"{row['equal'] / row['questions']:.1%}",
                " to ".join(f"{bound:.1%}" for bound in row["interval"]),
                "-" if row["overlap"] is None else f"{row['overlap']:.1%}",
                *(f"{right / row['questions']:.1%}" for right in reversed(row["right"])),
            ]
            for row in result["rows"]
        ),
    )


def memory(result: Result) -> str:
    """What the chain takes in memory, against the formula."""
    header = ["engine", "prompt (visual x text x rows)", "budget", "weights MB", "caches MB"]
    header += ["scratch MB", "constant MB", "formula MB", "measured MB", "error"]
    parts = ("weight_bytes", "kv_bytes", "scratch_bytes", "constant_bytes")
    return markdown(
        header,
        (
            [
                row["runner"],
                row["shape"],
                row["budget"],
                *(f"{row[part] / 1e6:.0f}" for part in parts),
                f"{sum(row[part] for part in parts) / 1e6:.0f}",
                f"{row['taken_bytes'] / 1e6:.0f}",
                f"{row['error']:+.1%}",
            ]
            for row in result["rows"]
        ),
    )


TABLES: dict[str, Callable[[Result], str]] = {
    "chain": chain,
    "contenders": contenders,
    "engines": engines,
    "engines_quantized": engines_quantized,
    "export_7b": export_7b,
    "fidelity": fidelity,
    "growth": growth,
    "memory": memory,
    "one_piece": one_piece,
}


def written(page: str) -> str:
    """The page with every table made anew."""

    def table(found: re.Match[str]) -> str:
        result = json.loads((RESULTS / f"{found[2]}.json").read_text(encoding="utf-8"))
        return f"{found[1]}{TABLES[found[2]](result)}{found[3]}"

    return REGION.sub(table, page)


@click.command()
@click.option("--check", is_flag=True, help="Write nothing; fail where the page would change.")
def main(check: bool) -> None:
    """Bring the pages up to date with benchmarks/results."""
    for path in PAGES:
        page = path.read_text(encoding="utf-8")
        new = written(page)
        if check and new != page:
            place = path.relative_to(ROOT)
            sys.exit(f"{place} is not what its results say: run benchmarks/document.py")
        if not check:
            path.write_text(new, encoding="utf-8")


if __name__ == "__main__":
    main()
