"""Numbers in English words, as some models were taught to read a count of frames."""

from __future__ import annotations

__all__ = ["cardinal"]

_TEENS = ("ten", "eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen")
_ONES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
_SMALL = (*_ONES, *_TEENS, "eighteen", "nineteen")
_TENS = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")


def cardinal(number: int) -> str:
    """Spell a number from 0 to 999999.

    Source: the package num2words, 0.5.14, `lang_EN`.
    """
    if number < 20:
        return _SMALL[number]
    if number < 100:
        tens, ones = divmod(number, 10)
        return _TENS[tens - 2] + (f"-{_SMALL[ones]}" if ones else "")
    size, unit = (100, "hundred") if number < 1000 else (1000, "thousand")
    many, rest = divmod(number, size)
    words = f"{cardinal(many)} {unit}"
    if not rest:
        return words
    return f"{words}{' and' if rest < 100 else ','} {cardinal(rest)}"
