"""Options that several commands have, so that they are spelled and told alike."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from sparsevlm_ops.methods import METHODS
from sparsevlm_trt.runtime.commands.method_options import NUMBER_OR_SHARE

__all__ = ["DEBUG", "check_one_plan", "debug_option", "json_option", "pruning_options"]

DEBUG = "sparsevlm.debug"  # key in the context's meta, which a group shares with its commands

Command = TypeVar("Command", bound=Callable[..., Any])


def debug_option(command: Command) -> Command:
    """Add `--debug`, which the group reads from the context."""
    return click.option(
        "--debug",
        is_flag=True,
        is_eager=True,
        expose_value=False,
        callback=_remember_debug,
        help="Show the traceback of an error.",
    )(command)


def json_option(command: Command) -> Command:
    """Add `--json` as the argument `as_json`."""
    return click.option(
        "--json", "as_json", is_flag=True, help="Write one JSON object to stdout instead."
    )(command)


def pruning_options(command: Command) -> Command:
    """Add `--method`, `--budget` and `--schedule`."""
    command = click.option(
        "--schedule",
        metavar="L:N,...",
        help="Visual tokens to keep after each pruning layer, like 2:300,6:200,15:110.",
    )(command)
    command = click.option(
        "--budget",
        type=NUMBER_OR_SHARE,
        help="Nominal average of visual tokens, such as 192, or a fraction of them, such as 0.33.",
    )(command)
    return click.option(
        "--method", type=click.Choice(list(METHODS)), help="Pruning method; none keeps all."
    )(command)


def check_one_plan(budget: float | None, schedule: str | None) -> None:
    """Refuse a budget beside a schedule.

    Raises:
        UsageError: Both are given.
    """
    if budget is not None and schedule is not None:
        raise click.UsageError("Give either --budget or --schedule, not both.")


def _remember_debug(ctx: click.Context, _: click.Parameter, value: bool) -> None:
    if value:
        ctx.meta[DEBUG] = True
