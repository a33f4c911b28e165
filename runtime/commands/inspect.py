"""`sparsevlm inspect`: what a bundle or a graph holds, and what a prompt would cost."""

from __future__ import annotations

from pathlib import Path

import click

from sparsevlm_trt.runtime.bundle import MANIFEST_NAME, Bundle
from sparsevlm_trt.runtime.bundle_report import USUAL_RANK, bundle_report, cost_report
from sparsevlm_trt.runtime.bundle_text import bundle_text, cost_text, graph_text
from sparsevlm_trt.runtime.commands.options import (
    check_one_plan,
    debug_option,
    json_option,
    no_verify_option,
    pruning_options,
)
from sparsevlm_trt.runtime.console import print_json
from sparsevlm_trt.runtime.extras import load_attribute
from sparsevlm_trt.runtime.pruning_plan import plan_pruning

__all__ = ["inspect"]

GRAPH_REPORT = "sparsevlm_trt.export.graph_report:graph_report"
VISUAL_TOKENS = 576  # LLaVA-1.5's, for a bundle that has no vision graph of its own
TEXT_TOKENS = 64


@click.command()
@click.argument("path", type=click.Path(path_type=Path))
@pruning_options
@click.option(
    "--visual",
    type=click.IntRange(min=0),
    help=f"Visual tokens of the prompt.  [default: one image, or {VISUAL_TOKENS}]",
)
@click.option(
    "--text",
    type=click.IntRange(min=0),
    default=TEXT_TOKENS,
    show_default=True,
    help="All other tokens of the prompt.",
)
@click.option(
    "--rank",
    type=click.IntRange(min=0),
    default=USUAL_RANK,
    show_default=True,
    help="What sparsevlm-adaptive meets: the raters of a prompt, as a rule.",
)
@no_verify_option
@json_option
@debug_option
def inspect(
    path: Path,
    *,
    method: str | None,
    budget: int | float | None,
    schedule: str | None,
    visual: int | None,
    text: int,
    rank: int,
    no_verify: bool,
    as_json: bool,
) -> None:
    """Show what PATH holds: a bundle's folder, or an .onnx file.

    Of a bundle also what a prompt costs before anything runs: tokens, FLOPs and KV cache of each
    stage, pruned and not. A multiply-add (MAC) is two FLOPs. Only an .onnx file needs more than
    the base install.
    """
    check_one_plan(budget, schedule)
    if path.name == MANIFEST_NAME:
        path = path.parent
    if path.is_file():
        _inspect_graph(path, as_json)
        return
    bundle = Bundle.open(path, verify=not no_verify)
    manifest = bundle.manifest
    if visual is None:
        visual = manifest.vision.num_visual if manifest.vision else VISUAL_TOKENS
    pruning = plan_pruning(
        manifest, method=method, budget=budget, schedule=schedule, num_visual=visual
    )
    cost = cost_report(manifest, pruning, num_visual=visual, num_text=text, rank=rank)
    report = bundle_report(bundle)
    if as_json:
        print_json({**report, "cost": cost})
        return
    click.echo(f"{bundle_text(report)}\n\n{cost_text(cost)}")


def _inspect_graph(path: Path, as_json: bool) -> None:
    """Show one ONNX file."""
    graph_report = load_attribute(GRAPH_REPORT, extra="export", who=f"inspecting {path.name}")
    report = graph_report(path)
    if as_json:
        print_json(report)
        return
    click.echo(graph_text(report))
