"""Build TensorRT-RTX engines of the demo model and of a 7B-shaped one, and measure what it takes.

    python benchmarks/engines.py WORKDIR --demo CHECKPOINT [--json FILE] [--only demo|7b]
    python benchmarks/engines.py WORKDIR --only quantized --quantized BUNDLE... [--json FILE]

Every graph of the demo model, and of a model of LLaVA-1.5-7B's shape the vision tower, the
embedding, a prune step and the first two stages (random weights; eight layers are exported, which
leaves these graphs as they are in the whole model). For each engine: plan over weights, forecast
over measured peak memory, and fused attention by the builder's scratch memory. Needs 10 GB of disk
for the 7B shape. No engine is executed: a host without a GPU will do.

Of quantised bundles every graph is built, and the plans of a scheme are held against its weights:
a builder that unpacks them makes plans of the unquantised size.
"""

from __future__ import annotations

import json
import platform
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import click
from bars import end_missed
from export_7b import write_checkpoint

from sparsevlm_trt.runtime.bundle import Bundle
from sparsevlm_trt.runtime.engines.build_client import ask
from sparsevlm_trt.runtime.engines.fusion import attention_verdict
from sparsevlm_trt.runtime.engines.limits import Limits
from sparsevlm_trt.runtime.engines.profiles import graph_profiles
from sparsevlm_trt.runtime.strict_json import encode

BARS = {"plan over weights": 0.03, "peak over forecast": 0.25}
LAYERS_7B = 32
LAYERS_EXPORTED = 8
# The first two steps of budget 192 on 32 layers; the rule for eight layers would cut elsewhere.
SCHEDULE_7B = "2:300,6:200"
GRAPHS_7B = ("vision", "embed", "prune_sparsevlm", "stage_0", "stage_1")


def compile_bundle(bundle: Path, graphs: tuple[str, ...], options: tuple[str, ...]) -> Any:
    """Compile in a process of its own; returns what `--json` tells."""
    shutil.rmtree(bundle / "engines", ignore_errors=True)
    chosen = [word for graph in graphs for word in ("--graph", graph)]
    command = ["sparsevlm", "compile", str(bundle), "--target", "tensorrt-rtx", "--no-cache"]
    done = subprocess.run(
        [*command, "--json", *chosen, *options], check=True, stdout=subprocess.PIPE, text=True
    )
    return json.loads(done.stdout)


def rows_of(report: Any) -> list[dict[str, Any]]:
    """One row for each engine."""
    rows = []
    for graph, engine in report["engines"].items():
        record, forecast = engine["record"], report["forecasts"][graph]
        rows.append(
            {
                "graph": graph,
                "weight_bytes": forecast["weight_bytes"],
                "kept_bytes": record["weight_bytes"],  # what the library says it holds
                "plan_bytes": record["plan_bytes"],
                "plan_over_weights": record["plan_bytes"] / max(1, forecast["weight_bytes"]) - 1,
                "plan_over_forecast": record["plan_bytes"] / forecast["plan_bytes"] - 1,
                "peak_bytes": record["peak_bytes"],
                "peak_over_forecast": record["peak_bytes"] / forecast["peak_bytes"] - 1,
                "activation_bytes": record["activation_bytes"],
                "attention": engine["attention"],
                "build_ms": record["build_ms"],
            }
        )
    return rows


def attention_of(bundle: Bundle, graph: str) -> tuple[str, int]:
    """Build a stage where long sequences let the scratch memory tell.

    Returns:
        The verdict, and the scratch memory in bytes.
    """
    limits = Limits(max_prompt=2048, max_new_tokens=2048, max_batch=1, max_images=1)
    profiles = graph_profiles(bundle.manifest, limits, graph)
    with tempfile.TemporaryDirectory() as folder:
        request = {
            "target": "tensorrt-rtx",
            "graph": str(bundle.graph_path(graph)),
            "profiles": encode(profiles),
            "flags": {"capabilities": []},
            "place": f"{folder}/plan",
        }
        built = next(event for event in ask(request) if event["event"] == "built")
    scratch = built["scratch_bytes"]
    return attention_verdict(bundle.manifest, graph, profiles, scratch), scratch


def judge(path: Path, rows: list[dict[str, Any]]) -> None:
    """Write the verdicts on the stages into their rows."""
    bundle = Bundle.open(path, verify=False)
    for row in rows:
        if row["graph"].startswith("stage"):
            row["attention"], row["long_scratch_bytes"] = attention_of(bundle, row["graph"])


def show(title: str, rows: list[dict[str, Any]]) -> None:
    """Print a table in Markdown."""
    click.echo(f"\n{title}\n")
    click.echo(
        "| graph | weights MB | plan MB | over weights | peak MB | over forecast | attention | s |"
    )
    click.echo("|---|---|---|---|---|---|---|---|")
    for row in rows:
        sizes = f"{row['weight_bytes'] / 1e6:.1f} | {row['plan_bytes'] / 1e6:.1f}"
        click.echo(
            f"| {row['graph']} | {sizes} | "
            f"{row['plan_over_weights']:+.1%} | {row['peak_bytes'] / 1e6:.0f} | "
            f"{row['peak_over_forecast']:+.1%} | {row['attention'] or ''} | "
            f"{row['build_ms'] / 1e3:.1f} |"
        )


@click.command()
@click.argument("workdir", type=click.Path(path_type=Path))
@click.option("--demo", type=click.Path(path_type=Path), help="The demo model's checkpoint.")
@click.option("--only", type=click.Choice(["demo", "7b", "quantized"]), help="Leave out the rest.")
@click.option(
    "--quantized", multiple=True, type=click.Path(path_type=Path), help="A bundle; repeatable."
)
@click.option(
    "--attention", is_flag=True, help="Build each stage once more to judge its attention."
)
@click.option("--capability", multiple=True, help="Compute capability to build for; repeatable.")
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Write the result.")
def main(
    workdir: Path,
    demo: Path | None,
    only: str | None,
    quantized: tuple[Path, ...],
    attention: bool,
    capability: tuple[str, ...],
    json_file: Path | None,
) -> None:
    """Build the engines and compare them with their forecasts."""
    workdir.mkdir(parents=True, exist_ok=True)
    options = ("--capability", ",".join(capability)) if capability else ()
    result: dict[str, Any] = {"machine": platform.processor() or platform.machine()}
    if only in (None, "demo"):
        if demo is None:
            raise click.UsageError("Give the demo model's checkpoint, or --only 7b.")
        bundle = workdir / "demo-float16"
        if not bundle.is_dir():
            export(demo, bundle)
        report = compile_bundle(bundle, (), options)
        result["version"] = report["machine"]["version"]
        result["demo"] = rows_of(report)
        if attention:
            judge(bundle, result["demo"])
        show("Demo model, 135 M parameters", result["demo"])
    if only in (None, "7b"):
        checkpoint, bundle = workdir / "7b-shape", workdir / "7b-float16"
        if not bundle.is_dir():
            if not checkpoint.is_dir():
                write_checkpoint(checkpoint, LAYERS_EXPORTED)
            export(checkpoint, bundle, "--schedule", SCHEDULE_7B)
        report = compile_bundle(bundle, GRAPHS_7B, options)
        result["version"] = report["machine"]["version"]
        result["7b"] = rows_of(report)
        if attention:
            judge(bundle, result["7b"])
        show("LLaVA-1.5-7B's shape", result["7b"])
        stage = next(row for row in result["7b"] if row["graph"] == "stage_1")
        layer_bytes = stage["weight_bytes"] / 4
        others = [row["weight_bytes"] for row in result["7b"] if "stage" not in row["graph"]]
        # 16 layers in the longest stage of the whole model; the head weighs what embed does.
        result["longest_stage_bytes"] = 16 * layer_bytes
        result["whole_model_bytes"] = LAYERS_7B * layer_bytes + sum(others) + others[1]
    if quantized and only in (None, "quantized"):
        result |= build_quantized(quantized, options)
    if json_file is not None:
        json_file.write_text(json.dumps(result, indent=1, sort_keys=True) + "\n")
    missed = [
        f"{name}/{row['graph']}: peak {row['peak_over_forecast']:+.0%} of the forecast"
        for name in ("demo", "7b")
        for row in result.get(name, ())
        if abs(row["peak_over_forecast"]) > BARS["peak over forecast"]
    ]
    if missed:
        end_missed("missed: " + "; ".join(missed))


def build_quantized(bundles: tuple[Path, ...], options: tuple[str, ...]) -> dict[str, Any]:
    """Build all graphs of quantised bundles, and hold the plans of each against its weights."""
    schemes: dict[str, list[dict[str, Any]]] = {}
    version = ""
    for path in bundles:
        told = Bundle.open(path, verify=False).manifest.quantization
        name = told.scheme if told else "float16"
        report = compile_bundle(path, (), options)
        version = report["machine"]["version"]
        # Methods that share a graph share its engine: it is counted once.
        schemes[name] = [
            row for row in rows_of(report) if report["engines"][row["graph"]]["how"] != "shared"
        ]
    click.echo(
        "\n| scheme | engines | weights MB | weights in the plans MB | plans MB | the rest |"
    )
    click.echo("|---|---|---|---|---|---|")
    for name, rows in schemes.items():
        weights, kept, plans = (
            sum(row[key] for row in rows) / 1e6
            for key in ("weight_bytes", "kept_bytes", "plan_bytes")
        )
        rest = f"{plans - kept:.1f}"
        click.echo(f"| {name} | {len(rows)} | {weights:.1f} | {kept:.1f} | {plans:.1f} | {rest} |")
    for name, rows in schemes.items():
        show(name, rows)
    return {"version": version, "quantized": schemes}


def export(checkpoint: Path, bundle: Path, *options: str) -> None:
    """Export in float16."""
    command = ["sparsevlm", "export", str(checkpoint), str(bundle), "--dtype", "float16"]
    subprocess.run([*command, *options], check=True)


if __name__ == "__main__":
    main()
