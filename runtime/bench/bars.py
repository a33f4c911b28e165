"""Stacked bars as SVG text: where the time of each case goes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

from sparsevlm_trt.runtime.evaluation.chart import COLOURS
from sparsevlm_trt.runtime.units import spell_ms

__all__ = ["bar_legend", "stacked_bars"]

WIDTH, LEFT, RIGHT = 920, 250, 84
BAR, STEP, TOP = 18, 28, 6


def stacked_bars(rows: Sequence[tuple[str, Mapping[str, float]]], *, label: str) -> str:
    """Draw a bar for each row, its parts one behind the other.

    Args:
        rows: Name and milliseconds by part; the same parts in the same order.
        label: What the chart shows, for those who cannot see it.
    """
    longest = max((sum(parts.values()) for _, parts in rows), default=0.0) or 1.0
    scale = (WIDTH - LEFT - RIGHT) / longest
    height = TOP + STEP * len(rows)
    svg = [f'<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{escape(label)}">']
    for number, (name, parts) in enumerate(rows):
        y, x = TOP + STEP * number, float(LEFT)
        svg.append(
            f'<text class="name" x="{LEFT - 10}" y="{y + 13}" text-anchor="end">'
            f"{escape(name)}</text>"
        )
        for place, (part, ms) in enumerate(parts.items()):
            svg.append(
                f"<g><title>{escape(name)}: {escape(part)} {spell_ms(ms)}</title>"
                f'<rect x="{x:.1f}" y="{y}" width="{ms * scale:.1f}" height="{BAR}" '
                f'fill="{COLOURS[place % len(COLOURS)]}"/></g>'
            )
            x += ms * scale
        svg.append(f'<text x="{x + 8:.1f}" y="{y + 13}">{spell_ms(sum(parts.values()))}</text>')
    return "\n".join([*svg, "</svg>"])


def bar_legend(parts: Sequence[str]) -> str:
    """Name the colours of the parts."""
    keys = [
        '<span><svg class="key" viewBox="0 0 16 16" aria-hidden="true"><rect width="16" '
        f'height="16" fill="{COLOURS[place % len(COLOURS)]}"/></svg>{escape(part)}</span>'
        for place, part in enumerate(parts)
    ]
    return f'<p class="legend">{"".join(keys)}</p>'
