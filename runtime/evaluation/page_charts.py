"""The charts of the report's page: scores against costs, of all questions and of each kind."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from html import escape

from sparsevlm_trt.runtime.evaluation.chart import Band, Dot, Series, chart, legend
from sparsevlm_trt.runtime.evaluation.intervals import Score
from sparsevlm_trt.runtime.evaluation.markup import percent, share, table
from sparsevlm_trt.runtime.evaluation.results import Point, points_by_method, unpruned_point

__all__ = ["cost_charts", "kind_charts"]


def cost_charts(rows: Sequence[Point]) -> Iterator[str]:
    """Draw the score of each configuration against each of its costs."""
    yield "<h2>Right answers against what they cost</h2>"
    yield _legend(rows)
    costs: list[tuple[str, str, Callable[[Point], float]]] = [
        ("visual tokens per layer", "True average tokens", lambda point: point.average_tokens),
        *_flop_cost(rows),
        ("MB of keys and values", "KV cache", lambda point: point.kv_bytes / 1e6),
        ("ms, median", "Time to first token", lambda point: point.first_token_ms),
    ]
    yield '<div class="charts">'
    for unit, name, cost in costs:
        yield _figure(name, rows, unit, cost, lambda point: point.score)
    yield "</div>"


def _flop_cost(rows: Sequence[Point]) -> Iterator[tuple[str, str, Callable[[Point], float]]]:
    """Prefill FLOPs in the unit that the largest has."""
    largest = max(point.prefill_flops for point in rows)
    power = next(power for power in (12, 9, 6) if largest >= 10**power or power == 6)
    unit = {12: "TFLOP", 9: "GFLOP", 6: "MFLOP"}[power]
    yield f"{unit} of prefill", "Decoder prefill", lambda point: point.prefill_flops / 10**power


def kind_charts(rows: Sequence[Point]) -> Iterator[str]:
    """Draw the score of each kind of question against the true tokens, and list it."""
    kinds = list(rows[0].kinds)
    yield "<h2>By kind of question</h2>"
    yield _legend(rows)
    yield '<div class="charts">'
    for kind in kinds:
        num = rows[0].kinds[kind].num
        yield _figure(
            f"{kind or 'no kind'} ({num})",
            rows,
            "visual tokens per layer",
            lambda point: point.average_tokens,
            lambda point, kind=kind: point.kinds[kind],  # type: ignore[misc]
        )
    yield "</div>"
    header = ["configuration", *(f"{kind or 'no kind'}>" for kind in kinds)]
    cells = [
        (point.label, *(share(score.mean, score.interval) for score in point.kinds.values()))
        for point in rows
    ]
    yield f"<details><summary>The same in figures</summary>{table(header, cells)}</details>"


def _figure(
    name: str,
    rows: Sequence[Point],
    unit: str,
    cost: Callable[[Point], float],
    score: Callable[[Point], Score],
) -> str:
    series = [
        Series(method, tuple(_dot(point, cost, score) for point in group))
        for method, group in points_by_method(rows).items()
    ]
    unpruned = unpruned_point(rows)
    band = Band("unpruned", _dot(unpruned, cost, score)) if unpruned else None
    drawn = chart(series, band, x_name=unit, label=f"Right answers against {name}")
    return f"<figure><h3>{escape(name)}</h3>{drawn}</figure>"


def _dot(point: Point, cost: Callable[[Point], float], score: Callable[[Point], Score]) -> Dot:
    found = score(point)
    interval = found.interval
    title = f"{point.label}: {percent(found.mean)} ({percent(interval.low)} to " + (
        f"{percent(interval.high)}) at {cost(point):.4g}"
    )
    return Dot(cost(point), found.mean, interval.low, interval.high, title)


def _legend(rows: Sequence[Point]) -> str:
    return legend(
        list(points_by_method(rows)),
        "unpruned, with its interval" if unpruned_point(rows) else None,
    )
