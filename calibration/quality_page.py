"""The quality report as lines for a terminal and as one HTML page."""

from __future__ import annotations

from html import escape
from pathlib import Path

from sparsevlm_trt.calibration.quality import Quality
from sparsevlm_trt.runtime.errors import InputError
from sparsevlm_trt.runtime.evaluation.markup import percent, points, table
from sparsevlm_trt.runtime.evaluation.page_style import STYLE
from sparsevlm_trt.runtime.evaluation.report import write_text
from sparsevlm_trt.runtime.plain_json import plain_from
from sparsevlm_trt.runtime.strict_json import json_text
from sparsevlm_trt.runtime.table import format_table
from sparsevlm_trt.runtime.units import spell_bytes

__all__ = ["quality_lines", "quality_page", "write_quality"]


def write_quality(folder: Path, quality: Quality) -> Path:
    """Write `quality.json` and `report.html` into a folder, made if need be.

    Returns:
        The page.

    Raises:
        InputError: The folder cannot be written.
    """
    page = folder / "report.html"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_text(folder / "quality.json", json_text(plain_from(quality)))
        write_text(page, quality_page(quality))
    except OSError as error:
        raise InputError(
            f"report {folder} | {error.strerror} | expected a folder to write into | "
            "choose another one: --out DIR"
        ) from error
    return page


def quality_lines(quality: Quality) -> str:
    """Tell it in a terminal."""
    rows = [
        [
            plan.plan,
            f"{plan.source_accuracy:.1%}",
            f"{plan.accuracy:.1%}",
            f"{plan.agreement:.1%}",
            "-" if plan.overlap is None else f"{plan.overlap:.1%}",
            f"{plan.source_prefill_ms:.0f} / {plan.prefill_ms:.0f} ms",
            _pair(plan.source_decode_ms, plan.decode_ms),
        ]
        for plan in quality.plans
    ]
    header = ["plan", "original", quality.scheme, "same", "patches", "prefill", "decode"]
    graphs = [
        [
            graph.name,
            "-" if graph.sqnr_db is None else f"{graph.sqnr_db:.1f} dB",
            f"{graph.cosine:.6f}",
        ]
        for graph in quality.graphs
    ]
    return "\n".join(
        [
            format_table(header, rows),
            "",
            format_table(["graph", "SQNR", "cosine"], graphs),
            "",
            _size(quality),
            *(_verdict(quality)),
        ]
    )


def quality_page(quality: Quality) -> str:
    """Make the page; it needs no other file."""
    plans = [
        (
            plan.plan,
            percent(plan.source_accuracy),
            percent(plan.accuracy),
            points(plan.difference.mean, plan.difference.interval),
            percent(plan.agreement),
            None if plan.overlap is None else percent(plan.overlap),
            f"{plan.source_prefill_ms:.0f} / {plan.prefill_ms:.0f}",
            _pair(plan.source_decode_ms, plan.decode_ms).removesuffix(" ms"),
        )
        for plan in quality.plans
    ]
    graphs = [
        (
            graph.name,
            None if graph.sqnr_db is None else f"{graph.sqnr_db:.1f}",
            f"{graph.cosine:.6f}",
        )
        for graph in quality.graphs
    ]
    verdict = "".join(f"<p class='lead'>{escape(line)}</p>" for line in _verdict(quality))
    title = f"{quality.bundle}: {quality.scheme}"
    return "\n".join(
        [
            "<!doctype html><html lang='en'><meta charset='utf-8'>",
            "<meta name='viewport' content='width=device-width'>",
            f"<title>{escape(title)}</title><style>{STYLE}</style>",
            f"<h1>{escape(title)}</h1>",
            f"<p class='quiet'>Beside {escape(quality.source)}, on {quality.plans[0].num} "
            f"questions of {escape(quality.data)} ({quality.data_sha256[:12]}). "
            f"{escape(_size(quality))}.</p>",
            verdict,
            "<h2>Answers</h2>",
            table(
                [
                    "plan",
                    "original>",
                    "quantised>",
                    "difference, points>",
                    "same answer>",
                    "same patches kept>",
                    "prefill, ms>",
                    "decode step, ms>",
                ],
                plans,
            ),
            "<p class='quiet'>Times: medians, original / quantised, taken in turn.</p>",
            "<h2>Graphs, on the original's own inputs</h2>",
            table(["graph", "SQNR, dB>", "cosine>"], graphs),
            "</html>",
            "",
        ]
    )


def _size(quality: Quality) -> str:
    before, after = quality.source_weight_bytes, quality.weight_bytes
    return (
        f"weights {spell_bytes(after)} of {spell_bytes(before)}: {after / before:.3f} of the "
        "original"
    )


def _verdict(quality: Quality) -> list[str]:
    if not quality.problems:
        return ["good: all thresholds are met"]
    return ["NOT GOOD:", *quality.problems]


def _pair(first: float | None, second: float | None) -> str:
    return "-" if first is None or second is None else f"{first:.1f} / {second:.1f} ms"
