"""`sparsevlm calibrate check`: is a quantised bundle as good as the one it was made from?"""

from __future__ import annotations

from pathlib import Path

import click

from sparsevlm_trt.calibration.budgets_option import budgets_option
from sparsevlm_trt.runtime.bundle import Bundle
from sparsevlm_trt.runtime.commands.options import debug_option, json_option
from sparsevlm_trt.runtime.commands.question_options import metric_option
from sparsevlm_trt.runtime.console import Progress, print_json
from sparsevlm_trt.runtime.evaluation.metrics import find_metric
from sparsevlm_trt.runtime.evaluation.questions import read_questions

__all__ = ["check"]


@click.command()
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
@budgets_option(
    "Budgets to compare at; none is the unpruned model.  [default: none and the bundle's]"
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
