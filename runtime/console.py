"""What commands write: JSON on stdout, and the progress of long work on stderr."""

from __future__ import annotations

import json
import sys
from types import TracebackType
from typing import Any

import click

from sparsevlm_trt.runtime.plain_json import plain_from

__all__ = ["Progress", "print_json"]


def print_json(value: Any) -> None:
    """Write a report to stdout as one JSON object on one line."""
    click.echo(json.dumps(plain_from(value)))


class Progress:
    """Shows which step of how many is running: a bar on a terminal, else a line for each step.

    Call it before each step; leaving the `with` block completes the bar unless an error ended it.
    """

    def __init__(self, label: str, *, quiet: bool = False) -> None:
        """Show nothing yet.

        Args:
            label: What is being done, before the bar.
            quiet: Show nothing at all.
        """
        self._label = label
        self._quiet = quiet
        self._bar: Any = None  # click does not publish the type of its bars

    def __call__(self, name: str, number: int, total: int) -> None:
        """Tell that step `number` of `total`, counted from 0, begins."""
        if self._quiet:
            return
        if not sys.stderr.isatty():
            click.echo(f"{self._label} {number + 1}/{total}: {name}", err=True)
            return
        if self._bar is None:
            self._bar = click.progressbar(
                length=total,
                label=self._label,
                file=sys.stderr,
                show_eta=False,
                show_pos=True,
                item_show_func=lambda item: item,
            )
            self._bar.__enter__()
        self._bar.current_item = name
        self._bar.update(number - self._bar.pos)
        self._bar.render_progress()

    def __enter__(self) -> Progress:
        """Return the progress itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Complete the bar, or leave it where the error found it."""
        if self._bar is None:
            return
        if error is None:
            self._bar.current_item = None
            self._bar.update(self._bar.length - self._bar.pos)
        self._bar.__exit__(kind, error, trace)
