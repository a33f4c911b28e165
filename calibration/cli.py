"""`sparsevlm calibrate`: quantised bundles and schedules, made on your own data."""

from __future__ import annotations

from pathlib import Path

import click

from sparsevlm_trt.calibration.budget.command import budget
from sparsevlm_trt.runtime.bundle import Bundle
from sparsevlm_trt.runtime.commands.options import debug_option, json_option
from sparsevlm_trt.runtime.commands.question_options import data_option, metric_option
from sparsevlm_trt.runtime.console import Progress, print_json
from sparsevlm_trt.runtime.evaluation.metrics import find_metric
from sparsevlm_trt.runtime.evaluation.questions import read_questions
from sparsevlm_trt.runtime.units import spell_bytes

__all__ = ["calibrate"]

SCHEME_NAMES = ("int8", "int8-weight", "int4-weight", "fp8")


NONE = "none"


def _read_budgets(
    _ctx: click.Context, _param: click.Parameter, value: str | None
) -> tuple[int | None, ...]:
    """Read budgets spelled `none,192,64`; None stands for `none`."""
    parts = [] if value is None else [part.strip() for part in value.split(",")]
    if not all(part.isdecimal() or part == NONE for part in parts):
        raise click.BadParameter(f"{value!r} is no list of budgets, such as none,192,64")
    return tuple(None if part == NONE else int(part) for part in parts)


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
@click.option(
    "--budgets",
    callback=_read_budgets,
    metavar="N,...",
    help="Budgets, or none, that take turns meanwhile.  [default: the bundle's plan]",
)
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


@calibrate.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@click.argument("source", type=click.Path(path_type=Path))
@click.option(
    "--data",
    required=True,
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Questions that BUNDLE was not calibrated on; see docs/evaluate.md.",
)
@click.option("--limit", type=click.IntRange(min=1), help="Ask only so many, the first ones.")
@click.option(
    "--budgets",
    callback=_read_budgets,
    metavar="N,...",
    help="Budgets to compare at; none is the unpruned model.  [default: none and the bundle's]",
)
@metric_option
@click.option(
    "--min-agreement",
    type=click.FloatRange(0, 1),
    default=0.9,
    show_default=True,
    help="Share of answers that must be the same.",
)
@click.option(
    "--min-overlap",
    type=click.FloatRange(0, 1),
    default=0.95,
    show_default=True,
    help="Share of kept patches that must be the same.",
)
@click.option(
    "--max-drop",
    type=click.FloatRange(0, 1),
    default=0.01,
    show_default=True,
    help="Accuracy that may be lost.",
)
@click.option("--max-new-tokens", type=click.IntRange(min=1), default=8, show_default=True)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Where the report goes.  [default: BUNDLE/reports/quality]",
)
@click.option(
    "--threads", type=click.IntRange(min=1), help="Processor threads.  [default: allowed cores]"
)
@click.option("--quiet", is_flag=True, help="Show no progress.")
@json_option
@debug_option
@click.pass_context
def check(
    ctx: click.Context,
    bundle: Path,
    source: Path,
    *,
    data: Path,
    limit: int | None,
    budgets: tuple[int | None, ...],
    metric: str,
    min_agreement: float,
    min_overlap: float,
    max_drop: float,
    max_new_tokens: int,
    out: Path | None,
    threads: int | None,
    quiet: bool,
    as_json: bool,
) -> None:
    """Hold the quantised BUNDLE against SOURCE, the one it was made from.

    Each graph on the same inputs, the patches that both keep, the answers, the times. The exit
    code is 1 where the bundle is not good enough for the thresholds.
    """
    from sparsevlm_trt.calibration.quality import Thresholds, measure_quality
    from sparsevlm_trt.calibration.quality_page import quality_lines, write_quality

    made, original = Bundle.open(bundle), Bundle.open(source)
    score = find_metric(metric)
    questions = read_questions(data, limit=limit)
    plan = original.manifest.plan.budget
    with Progress("checking", quiet=quiet) as progress:
        quality = measure_quality(
            original,
            made,
            questions,
            budgets or ((None,) if plan is None else (None, plan)),
            score,
            Thresholds(min_agreement, min_overlap, max_drop),
            max_new_tokens=max_new_tokens,
            threads=threads,
            progress=progress,
        )
    page = write_quality(out or bundle / "reports" / "quality", quality)
    if as_json:
        print_json(quality)
    else:
        click.echo(f"{quality_lines(quality)}\n\n{page}")
    if quality.problems:
        ctx.exit(1)
