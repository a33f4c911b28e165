"""Options of the commands that ask a set of questions in many configurations."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from sparsevlm_trt.runtime.commands.options import read_schedule
from sparsevlm_trt.runtime.commands.question_options import data_option
from sparsevlm_trt.runtime.evaluation.configs import (
    NONE,
    Config,
    default_configs,
    plan_configs,
    pruning_methods,
)
from sparsevlm_trt.runtime.manifest import Manifest

__all__ = ["read_configs", "sweep_options"]

Command = TypeVar("Command", bound=Callable[..., Any])

_OPTIONS = (
    data_option,
    click.option(
        "--budgets",
        metavar="N,...",
        help="Nominal budgets; none is the unpruned model.  [default: none and all that fit]",
    ),
    click.option(
        "--methods", metavar="NAME,...", help="Pruning methods.  [default: all of the bundle's]"
    ),
    click.option(
        "--schedule",
        "schedules",
        multiple=True,
        metavar="L:N,...|FILE",
        callback=read_schedule,
        help="A schedule of your own, or a file that calibrate budget made; in addition, "
        "repeatable.",
    ),
    click.option(
        "--limit", type=click.IntRange(min=1), help="Ask only so many questions, the first ones."
    ),
    click.option("--max-new-tokens", type=click.IntRange(min=1), default=32, show_default=True),
    click.option(
        "--suffix", default="", metavar="TEXT", help="Ends every question, on a line of its own."
    ),
    click.option(
        "--seed",
        type=click.IntRange(min=0),
        default=0,
        show_default=True,
        help="Of methods that draw.",
    ),
    click.option(
        "--on-error",
        type=click.Choice(["fail", "skip"]),
        default="fail",
        show_default=True,
        help="What a broken line of the data does.",
    ),
)


def sweep_options(command: Command) -> Command:
    """Add what names the questions, the configurations and the form of the answers."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def read_configs(
    manifest: Manifest, budgets: str | None, methods: str | None, schedules: tuple[str, ...]
) -> tuple[Config, ...]:
    """Read the options that name configurations.

    Raises:
        BadParameter: A budget is no number.
        PlanError: The bundle cannot follow one of them.
        InputError: None at all.
    """
    names = pruning_methods(manifest) if methods is None else tuple(_listed(methods))
    if budgets is None and not schedules:
        return default_configs(manifest, names)
    numbers: list[int | None] = [] if budgets else [None]
    for word in _listed(budgets or ""):
        if word != NONE and not word.isdecimal():
            raise click.BadParameter(
                f"{word!r} is neither a whole number nor {NONE}", param_hint="--budgets"
            )
        numbers.append(None if word == NONE else int(word))
    return plan_configs(manifest, names, numbers, schedules)


def _listed(text: str) -> list[str]:
    return [word.strip() for word in text.split(",") if word.strip()]
