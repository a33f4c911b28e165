"""The progress of a sweep on stderr: a bar with the time left, or a line now and then."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Any

import click

from sparsevlm_trt.runtime.evaluation.answers import Answer

__all__ = ["Meter"]

LABEL = "Answers"
LINE_SECONDS = 30.0  # between lines where stderr is no terminal


class Meter:
    """Counts answers; call it after each one.

    On a terminal a bar, else a line at the start, every half minute and at the end.
    """

    def __init__(self, missing: int, already: int, label: str = LABEL) -> None:
        """Take the number of answers to be made, and of those that an earlier run made."""
        self._label = label
        self._missing = missing
        self._already = already
        self._done = 0
        self._started = self._told = time.monotonic()
        self._bar: Any = None  # click does not publish the type of its bars

    def __enter__(self) -> Meter:
        """Begin: say what is resumed."""
        if self._already:
            click.echo(f"{self._already} answers are here already.", err=True)
        if sys.stderr.isatty():
            # Only what is missing is counted, for the time left to come out right.
            self._bar = click.progressbar(
                length=self._missing, label=self._label, file=sys.stderr, show_pos=True
            )
            self._bar.__enter__()
        return self

    def __call__(self, _: Answer) -> None:
        """Count one answer."""
        self._done += 1
        if self._bar is not None:
            self._bar.update(1)
        elif time.monotonic() - self._told > LINE_SECONDS or self._done == self._missing:
            self._told = time.monotonic()
            left = (self._told - self._started) / self._done * (self._missing - self._done)
            told = f", {_spell_left(left)} left" if self._done < self._missing else ""
            click.echo(f"{self._label} {self._done}/{self._missing}{told}", err=True)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End the bar's line."""
        if self._bar is not None:
            self._bar.__exit__(kind, error, trace)


def _spell_left(seconds: float) -> str:
    """Spell a time to come: `40 s`, `12 min`, `3 h 05 min`."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min"
