"""The chart of the two overload runs, as SVG."""

from __future__ import annotations

import math
from typing import Any

TICKS = (0.1, 0.3, 1, 3, 10, 30, 100)  # seconds


def chart_svg(result: dict[str, Any]) -> str:
    """Draw the time to the first token by arrival, both runs, on a logarithmic scale."""
    width, height, left, bottom, top = 760, 340, 64, 44, 34
    colors = {"all visual tokens": "#b3261e", "controller": "#0a63c9"}
    phase, target = result["phase_s"], result["target_s"]
    values = [each["first_s"] for run in result["runs"].values() for each in run]
    told = [value for value in values if value]
    low = max([tick for tick in TICKS if tick <= min(told, default=1)], default=TICKS[0])
    high = max([1.5 * target, *told])
    scale = (height - bottom - top) / (math.log(high) - math.log(low))

    def x(at: float) -> float:
        return left + at / (3 * phase) * (width - left - 16)

    def y(seconds: float) -> float:
        return height - bottom - (math.log(max(seconds, low)) - math.log(low)) * scale

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        'font-family="sans-serif" font-size="13">',
        f'<rect width="{width}" height="{height}" fill="#fff"/>',
        f'<rect x="{x(phase):.1f}" y="{top}" width="{x(2 * phase) - x(phase):.1f}" '
        f'height="{height - bottom - top}" fill="#f0f2f6"/>',
        f'<text x="{x(1.5 * phase):.1f}" y="{height - bottom - 8}" text-anchor="middle" '
        'fill="#5b6270">'
        "three times the load</text>",
    ]
    parts += [
        f'<line x1="{left}" x2="{width - 16}" y1="{y(tick):.1f}" y2="{y(tick):.1f}" '
        f'stroke="#e3e6ec"/><text x="{left - 8}" y="{y(tick) + 4:.1f}" '
        f'text-anchor="end" fill="#5b6270">{tick:g} s</text>'
        for tick in TICKS
        if low <= tick <= high
    ]
    parts.append(
        f'<line x1="{left}" x2="{width - 16}" y1="{y(target):.1f}" y2="{y(target):.1f}" '
        f'stroke="#16181d" stroke-dasharray="5 4"/><text x="{left + 4}" y="{y(target) - 6:.1f}" '
        f'fill="#16181d">target {target:g} s</text>'
    )
    for number, (name, run) in enumerate(result["runs"].items()):
        parts += [
            f'<circle cx="{x(each["at"]):.1f}" cy="{y(each["first_s"]):.1f}" r="3.4" '
            f'fill="{colors[name]}" fill-opacity=".75"/>'
            for each in run
            if each["first_s"] and each["at"] <= 3 * phase
        ]
        place = left + 10 + 190 * number
        parts.append(
            f'<circle cx="{place}" cy="16" r="4" fill="{colors[name]}"/>'
            f'<text x="{place + 10}" y="20" fill="#16181d">{name}</text>'
        )
    parts.append(
        f'<text x="{(left + width) / 2}" y="{height - 12}" text-anchor="middle" fill="#5b6270">'
        f"time of arrival, 0 to {3 * phase:g} s; time to first token, logarithmic</text></svg>"
    )
    return "\n".join(parts) + "\n"
