"""From answers to files: results.json, results.csv and report.html."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from sparsevlm_trt.runtime.cpu import read_cpu
from sparsevlm_trt.runtime.errors import InputError
from sparsevlm_trt.runtime.evaluation.agreement import agree
from sparsevlm_trt.runtime.evaluation.answers import Answer
from sparsevlm_trt.runtime.evaluation.cost import CostModel
from sparsevlm_trt.runtime.evaluation.job import Job
from sparsevlm_trt.runtime.evaluation.metrics import Metric
from sparsevlm_trt.runtime.evaluation.page import html_page
from sparsevlm_trt.runtime.evaluation.pictures import flip_pictures
from sparsevlm_trt.runtime.evaluation.questions import BrokenLine
from sparsevlm_trt.runtime.evaluation.report import Report, csv_text, json_text, write_text
from sparsevlm_trt.runtime.evaluation.results import Answered, find

__all__ = ["MOST_PICTURES", "make_report", "write_reports"]

MOST_PICTURES = 24  # about 8 kB each


def make_report(
    job: Job,
    known: Mapping[str, Answer],
    metric_name: str,
    metric: Metric,
    broken: Sequence[BrokenLine],
    agree_with: Path | None = None,
) -> Report:
    """Score all answers and compare the configurations.

    Args:
        job: What was asked.
        known: The answers, by key.
        metric_name: What the metric is called.
        metric: Scores an answer.
        broken: Lines that could not be asked, beside those that could not be read.
        agree_with: Another file of answers to compare with.

    Raises:
        InputError: No question was answered in all configurations, a metric of the caller's
            failed, or the other file cannot be used.
    """
    answered = Answered.of(job, known)
    left_out = sorted([*job.data.broken, *broken], key=lambda line: line.line)
    if not answered.questions:
        raise InputError(
            f"data {job.data.name} | got no question that could be asked ({left_out[0].problem}) "
            "| expected one or more | mend the data"
        )
    manifest, settings = job.bundle.manifest, job.settings
    ours = [
        (question.id, config.label, answer)
        for config, answers in answered.answers.items()
        for question, answer in zip(answered.questions, answers, strict=True)
    ]
    return Report(
        bundle=job.bundle.path.resolve().name,
        bundle_sha256=settings.bundle_sha256,
        model=manifest.model.source,
        dtype=manifest.model.dtype,
        num_layers=manifest.model.num_layers,
        data=job.data.name,
        data_sha256=job.data.sha256,
        metric=metric_name,
        runner=settings.runner,
        providers=settings.providers,
        processor=read_cpu().model,
        max_new_tokens=settings.max_new_tokens,
        seed=settings.seed,
        suffix=settings.suffix,
        findings=find(answered, metric, CostModel(manifest), left_out),
        agreement=None if agree_with is None else agree(ours, agree_with),
    )


def write_reports(
    folder: Path,
    report: Report,
    job: Job,
    known: Mapping[str, Answer],
    *,
    most_pictures: int = MOST_PICTURES,
) -> None:
    """Write all three files of a report into a folder.

    Args:
        folder: It exists.
        report: The report.
        job: What was asked.
        known: The answers, by key.
        most_pictures: Pictures of flipped questions for each configuration.

    Raises:
        InputError: The folder cannot be written.
    """
    page = html_page(report, flip_pictures(job, known, most_pictures))
    files = {"results.json": json_text, "results.csv": csv_text}
    try:
        for name, text_of in files.items():
            write_text(folder / name, text_of(report))
        write_text(folder / "report.html", page)
    except OSError as error:
        raise InputError(
            f"report {folder} | {error.strerror} | expected a folder to write into | "
            "choose another one: --out DIR"
        ) from error
