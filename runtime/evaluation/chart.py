"""Charts as SVG text: a score with its interval against what it costs, one colour a method."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape

__all__ = ["Band", "Dot", "Series", "chart", "legend"]

WIDTH, HEIGHT = 420, 300
LEFT, RIGHT, TOP, BOTTOM = 46, 14, 14, 44
DODGE = 5  # pixels between methods at one place, so that their whiskers stay apart
# Okabe and Ito's colours, told apart by colour-blind readers too; each has its own mark.
COLOURS = ("#0072b2", "#d55e00", "#007a5a", "#a24a86", "#7a6a00", "#3d3d3d")
MARKS = ("circle", "square", "triangle", "diamond", "cross", "ring")
FEWEST_TICKS = 4
LOG_FROM = 3.0  # an axis whose ends differ by this factor is logarithmic


@dataclass(frozen=True, slots=True)
class Dot:
    """One point: place, share 0 to 1 with its interval, and what it says when pointed at."""

    x: float
    y: float
    low: float
    high: float
    title: str


@dataclass(frozen=True, slots=True)
class Series:
    """The points of one method, joined by a line."""

    name: str
    dots: tuple[Dot, ...]


@dataclass(frozen=True, slots=True)
class Band:
    """What all is compared with: a dashed line with its interval behind it."""

    name: str
    dot: Dot


@dataclass(frozen=True, slots=True)
class _Axis:
    """From a number to a place in pixels."""

    low: float
    high: float
    start: float
    stop: float
    log: bool = False

    def place(self, value: float) -> float:
        low, high, value = ((math.log(v) if self.log else v) for v in (self.low, self.high, value))
        return self.start + (self.stop - self.start) * (value - low) / (high - low)


def chart(series: Sequence[Series], band: Band | None, *, x_name: str, label: str) -> str:
    """Draw shares, in percent, against a cost.

    Args:
        series: One for each method.
        band: The unpruned model.
        x_name: What the cost is, with its unit.
        label: What the chart shows, for those who cannot see it.
    """
    dots = [dot for line in series for dot in line.dots] + ([band.dot] if band else [])
    x_axis = _x_axis([dot.x for dot in dots])
    y_axis = _y_axis(min(dot.low for dot in dots))
    parts = [
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(label)}">',
        *_grid(x_axis, y_axis, x_name),
    ]
    if band is not None:
        parts += _band(band, x_axis, y_axis)
    for number, line in enumerate(series):
        shift = DODGE * (number - (len(series) - 1) / 2)
        parts += _series(line, number, shift, x_axis, y_axis)
    return "\n".join([*parts, "</svg>"])


def legend(names: Sequence[str], band: str | None) -> str:
    """Name the marks, once for all charts of a page."""
    keys = [
        f'<svg class="key" viewBox="-8 -8 16 16" aria-hidden="true">{_mark(number, 0, 0)}</svg>'
        f"{escape(name)}"
        for number, name in enumerate(names)
    ]
    if band is not None:
        keys.append(
            '<svg class="key" viewBox="-8 -8 16 16" aria-hidden="true"><line class="base" '
            f'x1="-8" x2="8" y1="0" y2="0"/></svg>{escape(band)}'
        )
    return '<p class="legend">' + "".join(f"<span>{key}</span>" for key in keys) + "</p>"


def _x_axis(values: Sequence[float]) -> _Axis:
    low, high = min(values), max(values)
    log = low > 0 and high / low >= LOG_FROM
    if log:
        low, high = low / 1.15, high * 1.15
    else:
        margin = 0.08 * (high - low) or 0.1 * abs(high) or 1.0
        low, high = low - margin, high + margin
    return _Axis(low, high, LEFT, WIDTH - RIGHT, log)


def _y_axis(lowest: float) -> _Axis:
    """From a round number below everything up to 100 %."""
    bottom = max(0.0, math.floor(lowest * 10 - 0.2) / 10)
    return _Axis(min(bottom, 0.9), 1.0, HEIGHT - BOTTOM, TOP)


def _ticks(axis: _Axis) -> list[float]:
    """Round numbers along an axis: 1, 2 or 5 times a power of ten, or more of them."""
    if axis.log:
        first = math.floor(math.log10(axis.low))
        last = math.ceil(math.log10(axis.high))
        for steps in ((1, 2, 5), (1, 1.5, 2, 3, 5, 7)):
            candidates = [m * 10.0**e for e in range(first, last + 1) for m in steps]
            found = [value for value in candidates if axis.low <= value <= axis.high]
            if len(found) >= FEWEST_TICKS:
                break
        return found
    rough = (axis.high - axis.low) / 5
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= rough)
    first, last = math.ceil(axis.low / step), math.floor(axis.high / step)
    return [number * step for number in range(first, last + 1)]


def _grid(x_axis: _Axis, y_axis: _Axis, x_name: str) -> Iterator[str]:
    bottom, right = HEIGHT - BOTTOM, WIDTH - RIGHT
    span = y_axis.high - y_axis.low
    step = 20 if span > 0.55 else 10 if span > 0.25 else 5 if span > 0.12 else 2
    for percent in range(round(100 * y_axis.low), 101):
        if percent % step == 0:
            y = y_axis.place(percent / 100)
            yield f'<line class="grid" x1="{LEFT}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}"/>'
            yield f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{percent} %</text>'
    for value in _ticks(x_axis):
        x = x_axis.place(value)
        yield f'<line class="axis" x1="{x:.1f}" x2="{x:.1f}" y1="{bottom}" y2="{bottom + 4}"/>'
        yield f'<text x="{x:.1f}" y="{bottom + 17}" text-anchor="middle">{value:g}</text>'
    yield f'<line class="axis" x1="{LEFT}" x2="{right}" y1="{bottom}" y2="{bottom}"/>'
    middle = (LEFT + right) / 2
    yield (
        f'<text class="name" x="{middle:.0f}" y="{HEIGHT - 8}" text-anchor="middle">'
        f"{escape(x_name)}</text>"
    )


def _band(band: Band, x_axis: _Axis, y_axis: _Axis) -> Iterator[str]:
    low, high, y = (y_axis.place(v) for v in (band.dot.low, band.dot.high, band.dot.y))
    right = WIDTH - RIGHT
    yield (
        f'<g><title>{escape(band.dot.title)}</title><rect class="band" x="{LEFT}" '
        f'width="{right - LEFT}" y="{high:.1f}" height="{low - high:.1f}"/>'
        f'<line class="base" x1="{LEFT}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}"/>'
        f'<circle class="base-dot" cx="{x_axis.place(band.dot.x):.1f}" cy="{y:.1f}" r="4"/></g>'
    )


def _series(
    line: Series, number: int, shift: float, x_axis: _Axis, y_axis: _Axis
) -> Iterator[str]:
    colour = COLOURS[number % len(COLOURS)]
    places = [(x_axis.place(dot.x) + shift, y_axis.place(dot.y)) for dot in line.dots]
    ordered = " ".join(f"{x:.1f},{y:.1f}" for x, y in sorted(places))
    yield f'<polyline class="line" stroke="{colour}" points="{ordered}"/>'
    for dot, (x, y) in zip(line.dots, places, strict=True):
        low, high = y_axis.place(dot.low), y_axis.place(dot.high)
        yield (
            f'<g><title>{escape(dot.title)}</title><line class="whisker" stroke="{colour}" '
            f'x1="{x:.1f}" x2="{x:.1f}" y1="{low:.1f}" y2="{high:.1f}"/>{_mark(number, x, y)}</g>'
        )


def _mark(number: int, x: float, y: float) -> str:
    """Draw a series' mark at a place."""
    colour, kind = COLOURS[number % len(COLOURS)], MARKS[number % len(MARKS)]
    if kind == "circle":
        return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4.5" fill="{colour}"/>'
    if kind == "ring":
        return (
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="#fff" stroke="{colour}" '
            'stroke-width="2"/>'
        )
    shapes = {
        "square": "-4,-4 4,-4 4,4 -4,4",
        "triangle": "0,-5.5 5.5,4 -5.5,4",
        "diamond": "0,-6 6,0 0,6 -6,0",
        "cross": "-2,-6 2,-6 2,-2 6,-2 6,2 2,2 2,6 -2,6 -2,2 -6,2 -6,-2 -2,-2",
    }
    return (
        f'<polygon transform="translate({x:.1f} {y:.1f})" points="{shapes[kind]}" '
        f'fill="{colour}"/>'
    )
