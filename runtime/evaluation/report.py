"""All that an evaluation reports: what was asked of what, and what was found."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from sparsevlm_trt.runtime.evaluation.agreement import Agreement
from sparsevlm_trt.runtime.evaluation.intervals import Score
from sparsevlm_trt.runtime.evaluation.results import Findings, Point
from sparsevlm_trt.runtime.plain_json import plain_from

__all__ = ["Report", "csv_text", "json_text", "write_text"]

ALL_KINDS = "all"
COLUMNS = (
    "config",
    "method",
    "budget",
    "schedule",
    "kind",
    "questions",
    "score",
    "score_low",
    "score_high",
    "average_tokens",
    "prefill_flops",
    "total_flops",
    "kv_bytes",
    "first_token_ms",
    "retained",
    "retained_low",
    "retained_high",
)


@dataclass(frozen=True, slots=True)
class Report:
    """An evaluation from end to end.

    Attributes:
        bundle: Name of the bundle's folder.
        bundle_sha256: Hash of its manifest.
        model: The checkpoint that it was made of.
        dtype: The model's type.
        num_layers: Its decoder layers.
        data: Name of the question set.
        data_sha256: Hash of its file.
        metric: How answers were scored.
        runner: The engine.
        providers: Its execution providers, as asked for.
        processor: The machine's processor.
        max_new_tokens: Tokens of an answer at most.
        seed: Of methods that draw.
        suffix: What was added to every question.
        findings: The findings.
        agreement: The comparison with another file of answers, if asked for.
    """

    bundle: str
    bundle_sha256: str
    model: str
    dtype: str
    num_layers: int
    data: str
    data_sha256: str
    metric: str
    runner: str
    providers: tuple[str, ...]
    processor: str
    max_new_tokens: int
    seed: int
    suffix: str
    findings: Findings
    agreement: Agreement | None


def json_text(report: Report) -> str:
    """Write a report as JSON; see `Report`, `Findings` and `Point` for its keys."""
    return json.dumps({"format_version": 1, **plain_from(report)}, indent=1) + "\n"


def csv_text(report: Report) -> str:
    """Write a row for each configuration and kind; costs are told on the rows of all kinds."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for point in report.findings.points:
        writer.writerows(_rows(point))
    return text.getvalue()


def write_text(path: Path, text: str) -> None:
    """Write a file whole or not at all."""
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, path)


def _rows(point: Point) -> Iterator[tuple[object, ...]]:
    left = point.retained_interval
    yield (
        *_key(point, ALL_KINDS, point.score),
        point.average_tokens,
        point.prefill_flops,
        point.total_flops,
        point.kv_bytes,
        point.first_token_ms,
        point.retained,
        left.low if left else None,
        left.high if left else None,
    )
    empty = (None,) * 8
    for kind, score in point.kinds.items():
        yield (*_key(point, kind, score), *empty)


def _key(point: Point, kind: str, score: Score) -> tuple[object, ...]:
    config, interval = point.config, score.interval
    return (
        point.label,
        config.method,
        config.budget,
        config.schedule,
        kind,
        score.num,
        score.mean,
        interval.low,
        interval.high,
    )
