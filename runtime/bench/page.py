"""A benchmark as one HTML page that needs nothing else: no script, no font, no link."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import Any

from sparsevlm_trt.runtime.bench.bars import bar_legend, stacked_bars
from sparsevlm_trt.runtime.evaluation.markup import document, percent, table
from sparsevlm_trt.runtime.units import spell_bytes, spell_count, spell_ms

__all__ = ["bench_page", "row_name"]

Row = Mapping[str, Any]
PARTS = {
    "pixels and words": ("prepare_ms", "embed_ms"),
    "vision": ("vision_ms",),
    "stages": ("stage_ms",),
    "raters and prune steps": ("raters_ms", "prune_ms"),
    "head": ("head_ms",),
    "host": ("host_ms",),
}


def bench_page(report: Mapping[str, Any]) -> str:
    """Write the page of a report, as `sparsevlm bench` makes it."""
    title = f"What an answer of {report['bundle']} costs"
    return document(title, _sections(report))


def row_name(row: Row) -> str:
    """Name a row: who, how much is kept, on which prompt."""
    shape = f" {row['shape']}" if row["shape"] else ""
    return f"{row['contender']} {row['budget'] or 'none'}{shape}"


def _sections(report: Mapping[str, Any]) -> Iterator[str]:
    machine = report["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    others = report["busy_elsewhere"]
    told = "an unknown share" if others is None else percent(others)
    yield (
        f'<p class="quiet">{escape(machine["cpu"])}, {machine["threads"]} threads · '
        f"{escape(versions)} · medians of {report['rounds']} rounds in turns · other programs "
        f"took {told} of the machine</p>"
    )
    rows: Sequence[Row] = report["rows"]
    yield "<h2>To the first token</h2>"
    bars = [(row_name(row), _parts(row)) for row in rows]
    yield bar_legend(list(PARTS))
    chart = stacked_bars(bars, label="Time to the first token, by part")
    yield f"<div>{chart}</div>"
    yield "<h2>All figures</h2>"
    yield _table(rows)
    if report.get("roofline"):
        yield "<h2>How far from the limit</h2>"
        yield from _roofline(report)


def _parts(row: Row) -> dict[str, float]:
    """Split a row's time; what a contender does not tell apart counts as its stages."""
    parts = {part: sum(float(row.get(n, 0.0)) for n in names) for part, names in PARTS.items()}
    if "stage_ms" not in row:
        parts["stages"] = float(row["language_ms"])
    return parts


def _table(rows: Sequence[Row]) -> str:
    header = [
        "case",
        "first token>",
        "language model>",
        "±>",
        "decode, a step>",
        "±>",
        "tokens/s>",
        "KV cache>",
        "loading>",
        "its memory>",
    ]
    return table(
        header,
        [
            (
                row_name(row),
                spell_ms(row["first_token_ms"]),
                spell_ms(row["language_ms"]),
                f"{row['language_ms_spread']:.0%}",
                spell_ms(row["decode_ms"]),
                f"{row['decode_ms_spread']:.0%}",
                f"{row['tokens_per_s']:.1f}" if "tokens_per_s" in row else None,
                spell_bytes(row["kv_bytes"]) if "kv_bytes" in row else None,
                spell_ms(row["load_ms"]),
                None if row["load_bytes"] is None else spell_bytes(row["load_bytes"]),
            )
            for row in rows
        ],
    )


def _roofline(report: Mapping[str, Any]) -> Iterator[str]:
    for name, ceilings in report["ceilings"].items():
        yield (
            f'<p class="quiet">{escape(name)}: matrix products alone reach '
            f"{spell_count(ceilings['flops_per_s'], 'FLOP/s')} in {ceilings['dtype']}, weights "
            f"are read at {spell_bytes(ceilings['bytes_per_s'])}/s.</p>"
        )
    yield table(
        ["case", "graph", "operations>", "bytes read>", "limit>", "measured>", "of the limit>"],
        [
            (
                bound["case"],
                bound["graph"],
                spell_count(bound["flops"], "FLOP"),
                spell_bytes(bound["num_bytes"]),
                spell_ms(bound["bound_ms"]),
                spell_ms(bound["measured_ms"]),
                percent(bound["share"]),
            )
            for bound in report["roofline"]
        ],
    )
