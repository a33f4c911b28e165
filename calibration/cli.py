"""`sparsevlm calibrate`: quantised bundles and schedules, made on your own data."""

from __future__ import annotations

from pathlib import Path

import click

from sparsevlm_trt.calibration.budget.command import budget
from sparsevlm_trt.calibration.budgets_option import budgets_option
from sparsevlm_trt.calibration.check_command import check
from sparsevlm_trt.runtime.bundle import Bundle
from sparsevlm_trt.runtime.commands.options import debug_option, json_option
from sparsevlm_trt.runtime.commands.question_options import data_option
from sparsevlm_trt.runtime.console import Progress, print_json
from sparsevlm_trt.runtime.units import spell_bytes

__all__ = ["calibrate"]

SCHEME_NAMES = ("int8", "int8-weight", "int4-weight", "fp8")


@click.group()
def calibrate() -> None:
    """Fit a bundle to your data: smaller numbers, a schedule that fits."""


calibrate.add_command(budget)


@calibrate.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@click.argument("out", type=click.Path(path_type=Path))
@click.option(
    "--scheme",
    type=click.Choice(SCHEME_NAMES),
    default="int8",
    show_default=True,
    help="What weights (and activations) become; see docs/calibration.md.",
)
@data_option
@click.option(
    "--limit",
    type=click.IntRange(min=1),
    default=32,
    show_default=True,
    help="Use so many questions, the first ones.",
)
@budgets_option("Budgets, or none, that take turns meanwhile.  [default: the bundle's plan]")
@click.option(
    "--rounding",
    type=click.Choice(["compensated", "nearest"]),
    default="compensated",
    show_default=True,
    help="Make up for the errors of rounded weights, or not: less memory and time, more noise; "
    "fp8 always takes the nearest.",
)
@click.option(
    "--kv-cache",
    type=click.Choice(["int8"]),
    help="Remember keys and values in this type.  [default: the model's]",
)
@click.option(
    "--keep",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    help="Leave so many activations and their weights as they are: those whose rounding moves "
    "most of what decisions are taken on, by their size.",
)
@click.option(
    "--keep-graphs",
    metavar="GRAPH,...",
    help="Leave whole graphs as they are, such as vision,stage_0: what decides first.",
)
@click.option(
    "--threads", type=click.IntRange(min=1), help="Processor threads.  [default: allowed cores]"
)
@click.option("--overwrite", is_flag=True, help="Replace a bundle that is already there.")
@click.option("--quiet", is_flag=True, help="Show no progress.")
@json_option
@debug_option
def quantize(
    bundle: Path,
    out: Path,
    *,
    scheme: str,
    data: Path,
    limit: int,
    budgets: tuple[int | None, ...],
    rounding: str,
    kv_cache: str | None,
    keep: int,
    keep_graphs: str | None,
    threads: int | None,
    overwrite: bool,
    quiet: bool,
    as_json: bool,
) -> None:
    """Turn BUNDLE into the quantised bundle OUT.

    The pruned chain itself answers the questions while the ranges of its activations are
    collected. Scores, selection, clustering, norms and softmax stay as they are. If anything
    fails, OUT is not made. How good OUT is: sparsevlm calibrate check.
    """
    # Reading and writing graphs needs packages that --help does not.
    from sparsevlm_trt.calibration.quantize import quantize_bundle
    from sparsevlm_trt.calibration.samples import read_samples
    from sparsevlm_trt.calibration.schemes import find_scheme
    from sparsevlm_trt.calibration.weight_bytes import weight_bytes

    source = Bundle.open(bundle)
    samples = read_samples(data, limit)
    for warning in samples.warnings:
        click.echo(f"warning: {warning}", err=True)
    with Progress("quantising", quiet=quiet) as progress:
        quantize_bundle(
            source,
            out,
            find_scheme(scheme, to_nearest=rounding == "nearest"),
            samples,
            budgets=budgets,
            num_kept=keep,
            kept_graphs=[name.strip() for name in keep_graphs.split(",")] if keep_graphs else (),
            int8_cache=kv_cache == "int8",
            threads=threads,
            overwrite=overwrite,
            progress=progress,
        )
    made = Bundle.open(out, verify=False)
    before, after = weight_bytes(source), weight_bytes(made)
    if as_json:
        print_json(
            {
                "bundle": out,
                "quantization": made.manifest.quantization,
                "weight_bytes": after,
                "source_weight_bytes": before,
                "warnings": samples.warnings,
            }
        )
        return
    click.echo(
        f"{out}: {scheme}, weights {spell_bytes(after)} of {spell_bytes(before)} "
        f"({after / before:.3f})"
    )


calibrate.add_command(check)
