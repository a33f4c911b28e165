"""How numbers with units are spelled for people, the same in every table and line."""

from __future__ import annotations

__all__ = ["spell_bytes", "spell_count", "spell_cut", "spell_ms"]

_STEPS = ("", "k", "M", "G", "T", "P")


def spell_count(count: float, unit: str = "") -> str:
    """Spell a count by its thousands: 2130000000000, "FLOP" -> `2.13 TFLOP`."""
    value, step = float(count), 0
    while abs(value) >= 999.5 and step < len(_STEPS) - 1:
        value /= 1000
        step += 1
    number = f"{value:.0f}" if step == 0 else f"{value:.3g}"
    return f"{number} {_STEPS[step]}{unit}".strip()


def spell_bytes(count: float) -> str:
    """Spell bytes in powers of 1000, as disks and the paper count: 302400000 -> `302 MB`."""
    return spell_count(count, "B")


def spell_ms(elapsed_ms: float) -> str:
    """Spell a time of milliseconds: `3.2 ms`, `412 ms`, `12.3 s`."""
    if elapsed_ms >= 9999.5:
        return f"{elapsed_ms / 1000:.1f} s"
    return f"{elapsed_ms:.1f} ms" if elapsed_ms < 99.95 else f"{elapsed_ms:.0f} ms"


def spell_cut(share: float) -> str:
    """Spell a saved share of something: 0.538 -> `-53.8 %`."""
    return f"{-100 * share:+.1f} %" if share else "0 %"
