"""`sparsevlm export`: a checkpoint becomes a bundle."""

from __future__ import annotations

from pathlib import Path

import click

from sparsevlm_ops.budget import Budget
from sparsevlm_trt.export.formats import DTYPES, OPSETS
from sparsevlm_trt.runtime.bundle import Bundle
from sparsevlm_trt.runtime.bundle_report import bundle_report, cost_report
from sparsevlm_trt.runtime.commands.options import (
    check_one_plan,
    debug_option,
    json_option,
    pruning_options,
)
from sparsevlm_trt.runtime.console import Progress, print_json
from sparsevlm_trt.runtime.pruning_plan import plan_pruning
from sparsevlm_trt.runtime.table import format_table
from sparsevlm_trt.runtime.units import spell_bytes

__all__ = ["export"]

# The prompt of the closing table, where the bundle has no vision graph to count for it.
VISUAL_TOKENS, TEXT_TOKENS = 576, 64


def _read_layers(
    _ctx: click.Context, _param: click.Parameter, value: str | None
) -> tuple[int, ...] | None:
    """Read layers spelled `2,6,15`; anything else is wrong usage."""
    if value is None:
        return None
    parts = value.split(",") if value.strip() else []
    if not all(part.strip().isdecimal() for part in parts):
        raise click.BadParameter(f"{value!r} is no list of layers, such as 2,6,15")
    return tuple(int(part) for part in parts)


@click.command()
@click.argument("checkpoint", type=click.Path(path_type=Path))
@click.argument("out", type=click.Path(path_type=Path))
@pruning_options
@click.option(
    "--boundaries",
    callback=_read_layers,
    metavar="L,...",
    help="Layers to cut after, like 2,6,15.  [default: where the methods prune]",
)
@click.option("--dtype", type=click.Choice(DTYPES), default="float32", show_default=True)
@click.option(
    "--opset",
    type=click.Choice([str(opset) for opset in OPSETS]),
    default=str(OPSETS[0]),
    show_default=True,
)
@click.option(
    "--peaks",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Report of `sparsevlm overflow --json`: make the bundle hold in float16 what it found.",
)
@click.option("--overwrite", is_flag=True, help="Replace a bundle that is already there.")
@click.option("--quiet", is_flag=True, help="Show no progress.")
@json_option
@debug_option
def export(
    checkpoint: Path,
    out: Path,
    *,
    method: str | None,
    budget: Budget | None,
    schedule: str | None,
    boundaries: tuple[int, ...] | None,
    dtype: str,
    opset: str,
    peaks: Path | None,
    overwrite: bool,
    quiet: bool,
    as_json: bool,
) -> None:
    """Turn CHECKPOINT, a Hugging Face folder with safetensors, into the bundle OUT.

    Method, budget (192 or a third, if nothing is said) or schedule are the bundle's defaults: a
    request may choose others that prune where the model is cut. If anything fails, OUT is not
    made.
    """
    check_one_plan(budget, schedule)
    # PyTorch takes seconds to import; --help and wrong usage need none of it.
    from sparsevlm_trt.export.exporter import export_bundle
    from sparsevlm_trt.export.float16_plan import read_float16_report

    with Progress("exporting", quiet=quiet) as progress:
        export_bundle(
            checkpoint,
            out,
            method=method or "sparsevlm",
            budget=budget,
            schedule=schedule,
            boundaries=boundaries,
            dtype=dtype,
            opset=int(opset),
            peaks=peaks,
            overwrite=overwrite,
            progress=progress,
        )
    bundle = Bundle.open(out, verify=False)  # its writer hashed every file
    manifest = bundle.manifest
    num_visual = manifest.vision.num_visual if manifest.vision else VISUAL_TOKENS
    report = bundle_report(bundle)
    cost = cost_report(
        manifest, plan_pruning(manifest), num_visual=num_visual, num_text=TEXT_TOKENS
    )
    done = read_float16_report(bundle)
    if as_json:
        print_json({**report, "cost": cost, **({"float16": done} if done else {})})
        return
    rows = [
        (
            stage["graph"],
            f"{stage['first']}-{stage['stop'] - 1}",
            spell_bytes(stage["graph_bytes"] + stage["weight_bytes"]),
            seen["num_visual"],
        )
        for stage, seen in zip(report["stages"], cost["stages"], strict=True)
    ]
    table = format_table(["stage", "layers", "size", "visual tokens"], rows)
    size = f"{spell_bytes(report['size_bytes'])} in {report['num_files']} files"
    average = cost["computed_average_visual_tokens"]
    click.echo(
        f"{table}\n\n{out}: {size}; {cost['method']}, {average:.0f} of {num_visual} visual tokens "
        f"per layer on average"
    )
    if done is not None:
        click.echo(done.spell())
