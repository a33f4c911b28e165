"""The task-risk guard: keep more where pruning is likely to hurt.

Two ways, which may stand together:

- by the question: rules of the user's own, a pattern and the least budget for questions that it
  matches ("read|text|sign": 288);
- by the scores: where the judges look at many tokens alike, their scores tell little about which
  ones matter. At each boundary at least a share of the effective number of tokens stays,
  exp(entropy of the scores): of V equal scores that is V, of one high score it is 1.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sparsevlm_ops.budget import Budget, budget_tokens
from sparsevlm_trt.runtime.errors import InputError

__all__ = ["ENTROPY", "Guard", "GuardLike", "effective_tokens"]

ENTROPY = "entropy"
DEFAULT_SHARE = 0.5
_EXPECTED = (
    "expected 'entropy', 'entropy:SHARE' with a share between 0 and 1, or 'PATTERN=BUDGET' | "
    "write it like entropy:0.5 or 'read|text|sign=288'"
)

GuardLike = str | Sequence[str] | Mapping[str, Budget]


@dataclass(frozen=True, slots=True)
class Guard:
    """What to keep in any case.

    Attributes:
        share: Share of the effective tokens that each boundary keeps at least; 0 for none.
        rules: Patterns, and the least budget of a question that each matches.
    """

    share: float = 0.0
    rules: tuple[tuple[re.Pattern[str], Budget], ...] = ()

    @classmethod
    def of(cls, value: GuardLike | None) -> Guard:
        """Read a guard: its spelling, several of them, or `{pattern: budget}`.

        Patterns are regular expressions, found anywhere, upper and lower case alike.

        Raises:
            InputError: It is none.
        """
        if value is None:
            return cls()
        if isinstance(value, Mapping):
            return cls(rules=tuple(_rule(text, budget) for text, budget in value.items()))
        share, rules = 0.0, []
        for part in [value] if isinstance(value, str) else value:
            if not isinstance(part, str):
                raise InputError(f"guard | got {part!r} | {_EXPECTED}")
            kind, _, number = part.partition(":")
            if kind == ENTROPY:
                share = _share(part, number)
                continue
            pattern, equals, budget = part.rpartition("=")
            if not equals:
                raise InputError(f"guard | got {part!r} | {_EXPECTED}")
            rules.append(_rule(pattern, _number(part, budget)))
        return cls(share, tuple(rules))

    def least_budget(self, question: str, num_visual: int) -> Budget | None:
        """Find the largest budget of the rules that match; None where none does.

        Args:
            question: The prompt's text.
            num_visual: Visual tokens that fractions are of.
        """
        found = [budget for pattern, budget in self.rules if pattern.search(question)]
        return max(found, key=lambda budget: budget_tokens(budget, num_visual), default=None)

    def least_kept(self, scores: NDArray[np.float32]) -> int:
        """Count the tokens that a boundary keeps at least, by its scores `[B, V]`.

        All rows of a batch keep as many: those of the flattest row.
        """
        most = max(effective_tokens(row) for row in scores)
        return min(int(scores.shape[1]) - 1, round(self.share * most))


def effective_tokens(scores: NDArray[np.float32]) -> float:
    """Count how many tokens scores `[V]` are spread over, 1 to V: exp of their entropy."""
    weights = np.maximum(scores.astype(np.float64), 0.0)
    total = weights.sum()
    if not total > 0.0:
        return float(len(scores))
    weights = weights[weights > 0.0] / total
    return float(np.exp(-(weights * np.log(weights)).sum()))


def _rule(pattern: str, budget: Budget) -> tuple[re.Pattern[str], Budget]:
    try:
        budget_tokens(budget, 1)
        return re.compile(pattern, re.IGNORECASE), budget
    except (re.error, ValueError, TypeError) as error:
        raise InputError(f"guard | rule {pattern!r}: {budget!r}: {error} | {_EXPECTED}") from error


def _share(part: str, number: str) -> float:
    try:
        share = float(number) if number else DEFAULT_SHARE
    except ValueError:
        share = -1.0
    if not 0.0 < share <= 1.0:
        raise InputError(f"guard | got {part!r} | {_EXPECTED}")
    return share


def _number(part: str, text: str) -> Budget:
    try:
        return int(text) if text.strip().isdecimal() else float(text)
    except ValueError as error:
        raise InputError(f"guard | got {part!r} | {_EXPECTED}") from error
