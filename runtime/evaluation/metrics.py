"""Whether an answer is right: four rules, the choice among them, and a plug for others.

An answer is normalised before it is compared: Unicode NFKC, case folded, number words up to ten
as digits, punctuation and the articles a, an, the left out, single spaces. What would leave
nothing (an answer "+") keeps its signs.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Callable
from importlib import import_module
from typing import Protocol

from sparsevlm_trt.runtime.errors import InputError
from sparsevlm_trt.runtime.evaluation.questions import LETTERS, Question

__all__ = ["METRICS", "Metric", "find_metric", "normalise"]

RELAXED_TOLERANCE = 0.05  # of the accepted number; ChartQA's rule (arXiv 2203.10244)
ARTICLES = frozenset({"a", "an", "the"})
NUMBER_WORDS = {
    word: str(number)
    for number, word in enumerate(
        ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
    )
}
_NUMBER = re.compile(r"[-+]?\d+(?:\.\d+)?(?:e[-+]?\d+)?", re.IGNORECASE)
_WORD = re.compile(r"[^\W_]+(?:[.,:/'-][^\W_]+)*")  # 3.5, 1,000, 10:45, don't stay whole
_LETTER = re.compile(r"\(?([A-Z])(?:[).:,]|\s|$)")


class Metric(Protocol):
    """Scores one answer; a function of your own fits, see docs/evaluate.md."""

    def __call__(self, question: Question, answer: str) -> float:
        """Return the score, from 0 (wrong) to 1 (right)."""


def normalise(text: str) -> str:
    """Bring a text to the form in which answers are compared."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    words = _WORD.findall(folded)
    kept = [NUMBER_WORDS.get(word, word) for word in words if word not in ARTICLES]
    return " ".join(kept or words or folded.split())


def exact(question: Question, answer: str) -> float:
    """Right if the answer equals an accepted one, both normalised."""
    found = normalise(answer)
    return float(any(found == normalise(accepted) for accepted in question.answers))


def relaxed(question: Question, answer: str) -> float:
    """Right if both are numbers and at most 5 % apart, or if `exact` says so."""
    found = _number(answer)
    accepted = [number for number in map(_number, question.answers) if number is not None]
    if found is not None and any(_is_near(found, number) for number in accepted):
        return 1.0
    return exact(question, answer)


def yesno(question: Question, answer: str) -> float:
    """Right if the first yes or no of the answer is that of the accepted answer."""
    said = _yes_or_no(answer)
    return float(said is not None and said in map(_yes_or_no, question.answers))


def choice(question: Question, answer: str) -> float:
    """Right if the answer chooses, by letter or by text, what an accepted one chooses."""
    said = _chosen(question, answer)
    if said is None:
        return 0.0
    return float(said in [_chosen(question, accepted) for accepted in question.answers])


def automatic(question: Question, answer: str) -> float:
    """`choice` where there are choices, `yesno` where only yes and no are accepted, or `exact`."""
    if question.choices:
        return choice(question, answer)
    if all(normalise(accepted) in ("yes", "no") for accepted in question.answers):
        return yesno(question, answer)
    return exact(question, answer)


METRICS: dict[str, Metric] = {
    "auto": automatic,
    "exact": exact,
    "relaxed": relaxed,
    "yesno": yesno,
    "choice": choice,
}

_NO_METRIC = (
    f"metric {{}} | {{}} | expected one of: {', '.join(METRICS)}, or module:function | "
    "name one, with its folder on PYTHONPATH"
)


def find_metric(name: str) -> Metric:
    """Look a metric up: one of `METRICS`, or `module:function` for one of your own.

    Raises:
        InputError: There is no such metric, or its module does not load.
    """
    if name in METRICS:
        return METRICS[name]
    module, colon, function = name.partition(":")
    if not (module and colon and function):
        raise InputError(_NO_METRIC.format(repr(name), "no such metric"))
    try:
        found: Callable[[Question, str], float] = getattr(import_module(module), function)
    except (ImportError, AttributeError) as error:
        raise InputError(_NO_METRIC.format(repr(name), error)) from error
    return _Checked(name, found)


class _Checked:
    """A metric of the caller's, held to the protocol."""

    def __init__(self, name: str, function: Callable[[Question, str], float]) -> None:
        self._name = name
        self._function = function

    def __call__(self, question: Question, answer: str) -> float:
        """Return the score, a number from 0 to 1."""
        try:
            score = float(self._function(question, answer))
        except Exception as error:  # whatever a program of another hand runs into
            raise InputError(
                f"metric {self._name} | {type(error).__name__}: {error} at question "
                f"{question.id} | expected a score | mend the function"
            ) from error
        if not 0 <= score <= 1:
            raise InputError(
                f"metric {self._name} | got {score} at question {question.id} | expected 0 to 1 | "
                "scale the score"
            )
        return score


def _number(text: str) -> float | None:
    """Read a number with its unit signs and thousands' commas, `$1,200`, `45 %`."""
    plain = NUMBER_WORDS.get(text.strip().strip(".").casefold(), text)
    cleaned = plain.replace(",", "").strip().strip("$€£%").strip().rstrip(".")
    return float(cleaned) if _NUMBER.fullmatch(cleaned) else None


def _is_near(found: float, accepted: float) -> bool:
    return math.isclose(found, accepted, rel_tol=0, abs_tol=RELAXED_TOLERANCE * abs(accepted))


def _yes_or_no(text: str) -> str | None:
    return next((word for word in normalise(text).split() if word in ("yes", "no")), None)


def _chosen(question: Question, text: str) -> int | None:
    """Find the choice that a text names: its words first, then its letter."""
    found = normalise(text)
    same = [i for i, text in enumerate(question.choices) if normalise(text) == found]
    if same:
        return same[0]
    letter = _LETTER.match(text.strip())
    number = LETTERS.index(letter[1]) if letter else len(question.choices)
    return number if number < len(question.choices) else None
