"""Successive halving: many contenders on few questions, then fewer contenders on more."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

__all__ = ["Placing", "race"]

FIRST_QUESTIONS = 24

Contender = TypeVar("Contender")
Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Placing(Generic[Contender]):
    """How far a contender came.

    Attributes:
        contender: Who.
        num: Questions that it was asked.
        loss: Its mean loss on them.
    """

    contender: Contender
    num: int
    loss: float


def race(
    contenders: Sequence[Contender],
    losses: Callable[[Sequence[Contender], int], Floats],
    num: int,
    first: int = FIRST_QUESTIONS,
) -> list[Placing[Contender]]:
    """Find the contender of the smallest mean loss.

    The worse half leaves after each round, and the questions double; the last two are asked all.

    Args:
        contenders: One or more, the likeliest first: they win ties.
        losses: Gives the losses `[contenders, n]` of the first n questions.
        num: Questions there are.
        first: Questions of the first round.

    Returns:
        All of them, the best first.
    """
    field = list(contenders)
    left: list[Placing[Contender]] = []
    asked = min(first, num)
    while True:
        means = losses(field, asked).mean(axis=1)
        order = np.argsort(means, kind="stable")
        placed = [Placing(field[i], asked, float(means[i])) for i in order]
        if asked == num:
            return placed + left
        stays = max(2, len(field) // 2)
        left = placed[stays:] + left
        field = [one.contender for one in placed[:stays]]
        asked = num if len(field) <= 2 else min(num, 2 * asked)
