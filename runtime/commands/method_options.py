"""Options of single methods, and numbers that may be shares."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, get_args

import click

from sparsevlm_ops.methods import Positions

__all__ = ["NUMBER_OR_SHARE", "method_options"]

Command = TypeVar("Command", bound=Callable[..., Any])


class _NumberOrShare(click.ParamType[int | float]):
    """A whole number, or a fraction between 0 and 1."""

    name = "number"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> int | float:
        """Read it; the option's own limits are checked with the request."""
        if isinstance(value, (int, float)):
            return value
        try:
            return int(value)
        except ValueError:
            pass
        try:
            return float(value)
        except ValueError:
            self.fail(f"{value!r} is neither a whole number nor a fraction.", param, ctx)


NUMBER_OR_SHARE = _NumberOrShare()


def method_options(command: Command) -> Command:
    """Add `--positions`, `--scale`, `--bias`, `--num-heads` and `--guard`."""
    command = click.option(
        "--guard",
        multiple=True,
        metavar="RULE",
        help="Keep more where pruning may hurt: entropy[:SHARE] by the scores, or PATTERN=BUDGET "
        "by the question; repeatable.",
    )(command)
    command = click.option(
        "--num-heads",
        type=NUMBER_OR_SHARE,
        help="Of sparsevlm+: heads that score, or their share.  [default: 14]",
    )(command)
    command = click.option(
        "--bias", type=float, help="Of sparsevlm-adaptive: tokens kept beyond.  [default: 0]"
    )(command)
    command = click.option(
        "--scale",
        type=float,
        help="Of sparsevlm-adaptive: tokens kept for each rank.  [default: 13.5]",
    )(command)
    return click.option(
        "--positions",
        type=click.Choice(get_args(Positions)),
        help="Number survivors without gaps, or as they were.  [default: the method's way]",
    )(command)
