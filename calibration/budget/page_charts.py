"""The charts of a search's page, and the table of what was measured."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from html import escape

from sparsevlm_trt.calibration.budget.findings import Findings, Measured
from sparsevlm_trt.calibration.budget.report import ROLES
from sparsevlm_trt.runtime.evaluation.chart import Band, Dot, Series, chart, legend
from sparsevlm_trt.runtime.evaluation.intervals import Score
from sparsevlm_trt.runtime.evaluation.markup import percent, share, table
from sparsevlm_trt.runtime.units import spell_ms

__all__ = ["cost_charts", "measured_table", "nats"]


def cost_charts(found: Findings) -> Iterator[str]:
    """Draw the Pareto charts: right answers, and the unpruned answer's probability, by FLOPs."""
    yield "<h2>What accuracy costs</h2>"
    ladder = [one for one in found.ladder if one.choice is not None]
    base = next(one for one in found.ladder if one.choice is None)
    yield legend([ROLES["found"], ROLES["default"], "predicted best"], "unpruned")
    predicted = Series(
        "predicted best",
        tuple(
            Dot(100 * one.share, y, y, y, f"{one.choice.label}: predicted {percent(y)}")
            for one in found.front
            for y in (math.exp(-(one.loss or 0.0)),)
        ),
    )
    yield '<div class="charts">'
    yield _figure("Right answers", ladder, base, _score, [])
    yield _figure("Probability of the unpruned answer", ladder, base, _faith, [predicted])
    yield "</div>"
    yield (
        f'<p class="quiet">On {base.score.num} questions of the search. The probability is that '
        "of the unpruned model's own answer, relative to unpruned, geometric mean.</p>"
    )
    figures = measured_table(found.ladder)
    yield f"<details><summary>The same in figures</summary>{figures}</details>"


def measured_table(rows: Sequence[Measured]) -> str:
    """Lay out what was measured."""
    return table(
        ["", "schedule", "FLOPs>", "right>", "answer loss>", "first token>"],
        [
            (
                ROLES[one.role],
                one.choice.label if one.choice else None,
                percent(one.share),
                share(one.score.mean, one.score.interval),
                nats(one.loss),
                spell_ms(one.first_token_ms),
            )
            for one in rows
        ],
    )


def nats(loss: float) -> str:
    """Spell a loss."""
    return f"{loss:.3f}".replace("-", "\N{MINUS SIGN}")


def _figure(
    name: str,
    rows: Sequence[Measured],
    base: Measured,
    score: Callable[[Measured], Score],
    more: Sequence[Series],
) -> str:
    series = [
        Series(ROLES[role], tuple(_dot(one, score(one)) for one in rows if one.role == role))
        for role in ("found", "default")
    ]
    drawn = chart(
        [*series, *more],
        Band("unpruned", _dot(base, score(base))),
        x_name="% of the unpruned prefill's operations",
        label=f"{name} against operations",
    )
    return f"<figure><h3>{escape(name)}</h3>{drawn}</figure>"


def _dot(one: Measured, score: Score) -> Dot:
    interval = score.interval
    title = (
        f"{one.label}: {percent(score.mean)} ({percent(interval.low)} to "
        f"{percent(interval.high)}) at {percent(one.share)} of the FLOPs"
    )
    return Dot(100 * one.share, score.mean, interval.low, interval.high, title)


def _score(one: Measured) -> Score:
    return one.score


def _faith(one: Measured) -> Score:
    return one.faith
