"""A benchmark as text for a terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sparsevlm_trt.runtime.bench.page import row_name
from sparsevlm_trt.runtime.table import format_table

__all__ = ["bench_text"]


def bench_text(report: Mapping[str, Any]) -> str:
    """The rows for people, and what the figures are worth."""
    header = ["case", "vision", "language", "±", "decode", "±", "KV MB", "load ms"]
    rows = [
        (
            row_name(row),
            f"{row['vision_ms']:.1f}",
            f"{row['language_ms']:.1f}",
            f"{row['language_ms_spread']:.0%}",
            f"{row['decode_ms']:.2f}",
            f"{row['decode_ms_spread']:.0%}",
            f"{row['kv_bytes'] / 1e6:.1f}" if "kv_bytes" in row else "-",
            f"{row['load_ms']:.0f}",
        )
        for row in report["rows"]
    ]
    others = report["busy_elsewhere"]
    told = "unknown" if others is None else f"{others:.0%}"
    machine = report["machine"]
    lines = [
        f"{machine['cpu']}, {machine['threads']} threads; medians of {report['rounds']} rounds in "
        f"ms, decode per step; other programs took {told} of the machine",
        format_table(header, rows),
    ]
    if "roofline" in report:
        limits = [
            (bound["case"], bound["graph"], f"{bound['bound_ms']:.1f}", f"{bound['share']:.0%}")
            for bound in report["roofline"]
        ]
        lines += ["", format_table(["case", "graph", "limit ms", "of it"], limits)]
    return "\n".join(lines)
