"""`sparsevlm evaluate`: what pruning costs on a set of questions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from sparsevlm_trt.runtime.bundle import Bundle
from sparsevlm_trt.runtime.commands.options import (
    debug_option,
    engine_options,
    json_option,
    no_verify_option,
    runner_options,
)
from sparsevlm_trt.runtime.commands.question_options import metric_option
from sparsevlm_trt.runtime.commands.sweep_options import read_configs, sweep_options
from sparsevlm_trt.runtime.console import print_json
from sparsevlm_trt.runtime.evaluation.answers import AnswerFile
from sparsevlm_trt.runtime.evaluation.job import Job, Settings
from sparsevlm_trt.runtime.evaluation.meter import Meter
from sparsevlm_trt.runtime.evaluation.metrics import find_metric
from sparsevlm_trt.runtime.evaluation.questions import BrokenLine, read_questions
from sparsevlm_trt.runtime.evaluation.reporting import (
    MOST_PICTURES,
    make_report,
    write_reports,
)
from sparsevlm_trt.runtime.evaluation.summary import summary_text
from sparsevlm_trt.runtime.evaluation.sweep import sweep
from sparsevlm_trt.runtime.session import Session

__all__ = ["evaluate"]


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Where answers and reports go.  [default: BUNDLE/reports/evaluate-DATA]",
)
@sweep_options
@metric_option
@click.option(
    "--agree-with",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Also compare with the answers of another run, or of a reference.",
)
@click.option(
    "--pictures",
    type=click.IntRange(min=0),
    default=MOST_PICTURES,
    show_default=True,
    help="Pictures of flipped questions on the page, for each configuration.",
)
@runner_options
@no_verify_option
@json_option
@debug_option
def evaluate(
    bundle: Path,
    *,
    data: Path,
    out: Path | None,
    budgets: str | None,
    methods: str | None,
    schedules: tuple[str, ...],
    limit: int | None,
    max_new_tokens: int,
    suffix: str,
    metric: str,
    seed: int,
    on_error: str,
    agree_with: Path | None,
    pictures: int,
    runner: str,
    providers: tuple[str, ...],
    threads: int | None,
    no_verify: bool,
    as_json: bool,
) -> None:
    """Measure what pruning costs BUNDLE on a set of questions.

    Every question is asked unpruned and in every method and budget. Answers are kept as they are
    made: after an interruption the same command goes on where it stopped, and asks nothing again.
    """
    opened = Bundle.open(bundle, verify=False)
    score = find_metric(metric)
    questions = read_questions(data, skip_broken=on_error == "skip", limit=limit)
    configs = read_configs(opened.manifest, budgets, methods, schedules)
    settings = Settings(
        bundle_sha256=opened.sha256,
        runner=runner,
        providers=providers,
        max_new_tokens=max_new_tokens,
        seed=seed,
        suffix=suffix,
    )
    job = Job(opened, questions, configs, settings)
    folder = out or bundle / "reports" / f"evaluate-{questions.name}"
    with AnswerFile(folder / "answers.jsonl") as file:
        options = {
            "verify": not no_verify,
            "image_cache_bytes": 0,  # times are part of the report
            **engine_options(providers, threads),
        }
        broken = _ask(job, file, skips=on_error == "skip", session_options=options)
        known = file.answers
    report = make_report(job, known, metric, score, broken, agree_with)
    write_reports(folder, report, job, known, most_pictures=pictures)
    if as_json:
        print_json(report)
    else:
        click.echo(f"{summary_text(report)}\n\n{folder / 'report.html'}")


def _ask(
    job: Job, file: AnswerFile, *, skips: bool, session_options: dict[str, Any]
) -> tuple[BrokenLine, ...]:
    """Make the answers that are missing; the model is loaded only for these."""
    keys = job.keys
    missing = len(keys - file.answers.keys())
    if not missing:
        return ()
    with (
        Meter(missing, len(keys) - missing) as meter,
        Session.load(job.bundle.path, job.settings.runner, **session_options) as session,
    ):
        return sweep(session, job, file, skip_broken=skips, progress=meter)
