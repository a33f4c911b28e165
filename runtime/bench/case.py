"""What a benchmark runs: who, how it prunes, and on which prompt."""

from __future__ import annotations

import re
from dataclasses import dataclass

from sparsevlm_trt.runtime.errors import InputError

__all__ = ["Case", "Shape", "read_budgets"]

_SHAPE = re.compile(r"(\d+)x(\d+)(?:x(\d+))?")


@dataclass(frozen=True, slots=True)
class Shape:
    """A prompt without content: visual tokens, then text, in rows of equal length."""

    num_visual: int
    num_text: int
    batch: int = 1

    @classmethod
    def parse(cls, spelled: str) -> Shape:
        """Read `576x64`, or `576x64x8` for eight rows.

        Raises:
            InputError: It is written otherwise, or has no text or no row.
        """
        found = _SHAPE.fullmatch(spelled.strip())
        numbers = [int(each or 1) for each in found.groups()] if found else [0]
        if not all(numbers[1:]) or len(numbers) == 1:
            raise InputError(
                f"shape | got {spelled!r} | expected VISUALxTEXT or VISUALxTEXTxROWS, text and "
                "rows 1 or more | write it like 576x64"
            )
        return cls(*numbers)

    def __str__(self) -> str:
        """Spell it as it is read."""
        rows = f"x{self.batch}" if self.batch > 1 else ""
        return f"{self.num_visual}x{self.num_text}{rows}"


@dataclass(frozen=True, slots=True)
class Case:
    """One line of the table.

    Attributes:
        contender: Who runs.
        method: How it prunes.
        budget: Nominal average of visual tokens, or their share below 1; None keeps all.
        shape: The prompt; None for the picture and the question.
    """

    contender: str
    method: str
    budget: int | float | None
    shape: Shape | None = None


def read_budgets(spelled: str) -> list[int | float | None]:
    """Read `none,192,0.33`.

    Raises:
        InputError: One is neither a number nor none.
    """
    try:
        return [
            None if each == "none" else int(each) if each.isdecimal() else float(each)
            for each in (word.strip() for word in spelled.split(","))
        ]
    except ValueError as error:
        raise InputError(
            f"budgets | {error} | expected numbers and none | write them like none,192,64"
        ) from error
