"""The report as one HTML page that needs nothing else: no script, no font, no link."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape

from sparsevlm_trt.runtime.evaluation.configs import UNPRUNED
from sparsevlm_trt.runtime.evaluation.markup import document, percent, points, share, table
from sparsevlm_trt.runtime.evaluation.page_charts import cost_charts, kind_charts
from sparsevlm_trt.runtime.evaluation.page_flips import Picture, flip_gallery
from sparsevlm_trt.runtime.evaluation.report import Report
from sparsevlm_trt.runtime.evaluation.results import Point, unpruned_point
from sparsevlm_trt.runtime.units import spell_bytes, spell_count, spell_ms

__all__ = ["html_page"]


def html_page(report: Report, picture: Picture) -> str:
    """Write the page.

    Args:
        report: What to tell.
        picture: Gives the picture of a flipped question as a data URI, or None.
    """
    title = f"What pruning costs: {report.bundle} on {report.data}"
    return document(title, _sections(report, picture))


def _sections(report: Report, picture: Picture) -> Iterator[str]:
    found = report.findings
    yield from _opening(report)
    yield _summary_table(found.points)
    yield _paper_note(found.points)
    yield from cost_charts(found.points)
    if found.points[0].kinds:
        yield from kind_charts(found.points)
    if found.pairs:
        yield from _pairs(report)
    if unpruned_point(found.points) is not None:
        yield from flip_gallery(found.flips, picture)
    if report.agreement is not None:
        yield from _agreement(report)
    if found.broken:
        yield "<h2>Lines left out</h2>"
        yield table(["line>", "why"], [(line.line, line.problem) for line in found.broken])
    yield from _method(report)


def _opening(report: Report) -> Iterator[str]:
    found = report.findings
    asked = f"{found.num_questions} question{'s' * (found.num_questions != 1)}"
    yield (
        f'<p class="quiet">{escape(report.model)}, {escape(report.dtype)} · {asked} · '
        f"scored by {escape(report.metric)} · {escape(report.runner)}</p>"
    )
    unpruned = unpruned_point(found.points)
    pruned = [point for point in found.points if point.config != UNPRUNED]
    if unpruned is None or not pruned:
        return
    # The first method is the one that the page is about; its hardest budget tells most.
    own = [point for point in pruned if point.config.method == pruned[0].config.method]
    least = min(own, key=lambda point: point.average_tokens)
    rivals = [
        f"{escape(point.config.method)} {percent(point.score.mean)}"
        for point in pruned
        if point.config.plan == least.config.plan and point is not least
    ]
    beside = f"; at the same budget {', '.join(rivals)}" if rivals else ""
    yield (
        f'<p class="lead">Unpruned, {percent(unpruned.score.mean)} are right. '
        f"<b>{escape(least.label)}</b>, which leaves {least.average_tokens:.0f} of "
        f"{unpruned.average_tokens:.0f} visual tokens on average, gets "
        f"<b>{percent(least.score.mean)}</b>{beside}.</p>"
    )


def _summary_table(rows: Sequence[Point]) -> str:
    header = [
        "configuration",
        "right>",
        "of unpruned>",
        "paper>",
        "true tokens>",
        "prefill>",
        "KV cache>",
        "first token>",
        "lost / gained>",
        "p>",
    ]
    return table(header, [_summary_row(point) for point in rows])


def _summary_row(point: Point) -> Sequence[object]:
    left, versus = point.retained_interval, point.versus_unpruned
    return (
        point.label if point.config != UNPRUNED else "unpruned",
        share(point.score.mean, point.score.interval),
        share(point.retained, left) if point.retained is not None and left else None,
        percent(point.paper_retained) if point.paper_retained else None,
        f"{point.average_tokens:.1f}",
        spell_count(point.prefill_flops, "FLOP"),
        spell_bytes(point.kv_bytes),
        spell_ms(point.first_token_ms),
        f"{versus.only_second} / {versus.only_first}" if versus else None,
        _p_value(versus.p_value) if versus else None,
    )


def _paper_note(rows: Sequence[Point]) -> str:
    told = (
        "Small figures are 95 % intervals. True tokens: visual tokens per layer, mean of layers "
        "and questions. Lost and gained: questions that are right only unpruned, only pruned; "
        "p by McNemar's exact test."
    )
    if any(point.paper_retained for point in rows):
        told += (
            " The column “paper” is what the SparseVLM paper reports for LLaVA-1.5-7B, mean of "
            "eight benchmarks: another model and other data, so only the order of magnitude "
            "compares."
        )
    return f'<p class="quiet">{told}</p>'


def _pairs(report: Report) -> Iterator[str]:
    yield "<h2>Methods at the same budget</h2>"
    header = ["budget", "first", "second", "points ahead>", "only first>", "only second>", "p>"]
    yield table(
        header,
        [
            (
                pair.plan,
                pair.first,
                pair.second,
                points(pair.difference.mean, pair.difference.interval),
                pair.difference.only_first,
                pair.difference.only_second,
                _p_value(pair.difference.p_value),
            )
            for pair in report.findings.pairs
        ],
    )
    yield (
        '<p class="quiet">Percentage points by which the first method is ahead on the same '
        "questions, with a paired bootstrap interval; an interval that holds zero shows no "
        "difference. Equal budgets are not always equal tokens: see the true tokens above.</p>"
    )


def _agreement(report: Report) -> Iterator[str]:
    assert report.agreement is not None
    other = report.agreement
    yield f"<h2>Agreement with {escape(other.other)}</h2>"
    yield table(
        ["configuration", "the same answer>", "of>"],
        [(row.config, share(row.share, row.interval), row.num) for row in other.shares],
    )
    if other.num_alone:
        yield f'<p class="quiet">{other.num_alone} answers are not in that file.</p>'
    if other.differences:
        yield table(
            ["question", "configuration", "here", "there", "first token that differs>", "margin>"],
            [
                (row.id, row.config, row.ours, row.theirs, row.token, _margin(row.margin))
                for row in other.differences
            ],
        )
        yield (
            '<p class="quiet">Margin: by how much the logit of our token was above the next; near '
            "zero the two were tied.</p>"
        )


def _method(report: Report) -> Iterator[str]:
    suffix = f"Every question ended with “{escape(report.suffix)}”. " if report.suffix else ""
    providers = f" ({escape(', '.join(report.providers))})" if report.providers else ""
    yield "<h2>How this was measured</h2>"
    yield (
        f"<p>Greedy answers of at most {report.max_new_tokens} tokens, seed "
        f"{report.seed}. {suffix}Intervals are Wilson's for right and wrong, a bootstrap for "
        "graded scores, and a paired bootstrap for shares of the unpruned score and for "
        "differences. The image of a question is encoded once for all configurations, and that "
        "time counts in each time to the first token. FLOPs are counted, two per multiply-add, "
        "from the tokens that each stage truly saw; bytes are measured at the end of the "
        "answer.</p>"
    )
    yield (
        f'<p class="quiet">{escape(report.runner)}{providers} on {escape(report.processor)}. '
        f"Bundle <code>{report.bundle_sha256[:16]}</code>, data "
        f"<code>{report.data_sha256[:16]}</code>.</p>"
    )


def _p_value(value: float) -> str:
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def _margin(value: float | None) -> str | None:
    return None if value is None else f"{value:.4g}"
