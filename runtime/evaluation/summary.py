"""The findings on a terminal: one table."""

from __future__ import annotations

from sparsevlm_trt.runtime.evaluation.intervals import Interval
from sparsevlm_trt.runtime.evaluation.report import Report
from sparsevlm_trt.runtime.evaluation.results import Point
from sparsevlm_trt.runtime.table import format_table
from sparsevlm_trt.runtime.units import spell_bytes, spell_count, spell_ms

__all__ = ["summary_text"]

HEADER = ("configuration", "right", "interval", "retained", "tokens", "prefill", "KV", "first")


def summary_text(report: Report) -> str:
    """Tell a report to people."""
    found = report.findings
    lines = [format_table(HEADER, [_row(point) for point in found.points]), ""]
    lines.append(f"{found.num_questions} questions, {len(found.flips)} answers flipped")
    if report.agreement is not None:
        lines += [
            f"{share.config}: {share.equal} of {share.num} answers as in {report.agreement.other}"
            for share in report.agreement.shares
        ]
    lines += [f"left out: line {line.line} | {line.problem}" for line in found.broken]
    return "\n".join(lines)


def _row(point: Point) -> tuple[object, ...]:
    return (
        point.label,
        _percent(point.score.mean),
        _interval(point.score.interval),
        None if point.retained is None else _percent(point.retained),
        f"{point.average_tokens:.1f}",
        spell_count(point.prefill_flops, "FLOP"),
        spell_bytes(point.kv_bytes),
        spell_ms(point.first_token_ms),
    )


def _percent(value: float) -> str:
    return f"{100 * value:.1f} %"


def _interval(interval: Interval) -> str:
    return f"{100 * interval.low:.1f} to {100 * interval.high:.1f}"
