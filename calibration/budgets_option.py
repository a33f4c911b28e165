"""The option that names several budgets, unpruned among them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

__all__ = ["budgets_option"]

Command = TypeVar("Command", bound=Callable[..., Any])
NONE = "none"


def budgets_option(help_text: str) -> Callable[[Command], Command]:
    """Add `--budgets`, spelled `none,192,64`.

    Args:
        help_text: What the budgets are for, and what is taken without them.

    Returns:
        A decorator; the command gets a tuple of numbers, None for `none`.
    """
    return click.option("--budgets", callback=_read, metavar="N,...", help=help_text)


def _read(
    _ctx: click.Context, _param: click.Parameter, value: str | None
) -> tuple[int | None, ...]:
    parts = [] if value is None else [part.strip() for part in value.split(",")]
    if not all(part.isdecimal() or part == NONE for part in parts):
        raise click.BadParameter(f"{value!r} is no list of budgets, such as none,192,64")
    return tuple(None if part == NONE else int(part) for part in parts)
