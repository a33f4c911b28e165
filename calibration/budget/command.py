"""`sparsevlm calibrate budget`: the schedule that suits a bundle and its user's questions."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sparsevlm_trt.runtime.bundle import Bundle
from sparsevlm_trt.runtime.commands.options import (
    debug_option,
    engine_options,
    json_option,
    no_verify_option,
    runner_options,
)
from sparsevlm_trt.runtime.commands.question_options import data_option, metric_option
from sparsevlm_trt.runtime.console import print_json
from sparsevlm_trt.runtime.evaluation.metrics import find_metric

if TYPE_CHECKING:
    from sparsevlm_trt.calibration.budget.findings import Target

__all__ = ["budget"]


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@data_option
@click.option(
    "--target-accuracy",
    "accuracy",
    type=click.FloatRange(0, 1, min_open=True),
    metavar="SHARE",
    help="Keep this share of the unpruned score with as few operations as possible, such as 0.97.",
)
@click.option(
    "--target-ttft",
    "ttft",
    type=click.FloatRange(0, min_open=True),
    metavar="MS",
    help="Answer best within this time to the first token, on this machine.",
)
@click.option(
    "--target-flops",
    "flops",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    metavar="SHARE",
    help="Answer best with this share of the unpruned prefill's operations, such as 0.4.",
)
@click.option(
    "--methods",
    metavar="NAME,...",
    help="Pruning methods to choose among; each costs a search.  [default: the bundle's]",
)
@click.option(
    "--limit",
    type=click.IntRange(min=2),
    default=300,
    show_default=True,
    help="Use so many questions, the first ones; half are held out.",
)
@metric_option
@click.option("--max-new-tokens", type=click.IntRange(min=1), default=8, show_default=True)
@click.option(
    "--suffix", default="", metavar="TEXT", help="Ends every question, on a line of its own."
)
@click.option(
    "--seed",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    help="Of the split into searched and held-out images.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Where schedule, answers and report go.  [default: BUNDLE/reports/budget-DATA]",
)
@runner_options
@no_verify_option
@json_option
@debug_option
def budget(
    bundle: Path,
    *,
    data: Path,
    accuracy: float | None,
    ttft: float | None,
    flops: float | None,
    methods: str | None,
    limit: int,
    metric: str,
    max_new_tokens: int,
    suffix: str,
    seed: int,
    out: Path | None,
    runner: str,
    providers: tuple[str, ...],
    threads: int | None,
    no_verify: bool,
    as_json: bool,
) -> None:
    """Choose BUNDLE's pruning layers and the tokens kept after each from your questions.

    Give one target. The layers are among those that BUNDLE is cut after: one exported with more
    --boundaries leaves more to choose from. DIR/schedule.json is what --schedule takes, of run,
    evaluate, export and others; DIR/report.html tells what it gains over the default at equal
    operations, on questions that the search has not seen. After an interruption the same command
    goes on where it stopped.
    """
    target = _target(accuracy, ttft, flops)
    from sparsevlm_trt.calibration.budget.report import budget_lines
    from sparsevlm_trt.calibration.budget.reporting import (
        plain_report,
        search_bundle,
        write_reports,
    )
    from sparsevlm_trt.calibration.samples import read_samples
    from sparsevlm_trt.runtime.evaluation.job import Settings
    from sparsevlm_trt.runtime.session import Session

    opened = Bundle.open(bundle, verify=False)
    score = find_metric(metric)
    samples = read_samples(data, limit)
    for warning in samples.warnings:
        click.echo(f"warning: {warning}", err=True)
    settings = Settings(
        bundle_sha256=opened.sha256,
        runner=runner,
        providers=providers,
        max_new_tokens=max_new_tokens,
        suffix=suffix,
    )
    folder = out or bundle / "reports" / f"budget-{samples.data.name}"
    options: dict[str, Any] = {"verify": not no_verify, **engine_options(providers, threads)}
    report = search_bundle(
        opened,
        samples,
        target,
        None if methods is None else [name.strip() for name in methods.split(",")],
        settings,
        folder,
        lambda: Session.load(bundle, runner, image_cache_bytes=0, **options),
        metric=score,
        metric_name=metric,
        seed=seed,
    )
    schedule = write_reports(folder, report)
    if as_json:
        print_json({**plain_report(report), "schedule_file": schedule})
        return
    click.echo(f"{budget_lines(report)}\n\n{schedule}\n{folder / 'report.html'}")


def _target(accuracy: float | None, ttft: float | None, flops: float | None) -> Target:
    """Read the one target.

    Raises:
        UsageError: None, or several.
    """
    from sparsevlm_trt.calibration.budget.findings import Target

    given = [
        *([Target("accuracy", accuracy)] if accuracy is not None else []),
        *([Target("ttft", ttft)] if ttft is not None else []),
        *([Target("flops", flops)] if flops is not None else []),
    ]
    if len(given) != 1:
        raise click.UsageError(
            "Give exactly one of --target-accuracy, --target-ttft and --target-flops."
        )
    return given[0]
