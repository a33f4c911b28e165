"""Options of the commands that ask a set of questions."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from sparsevlm_trt.runtime.evaluation.metrics import METRICS

__all__ = ["data_option", "metric_option"]

Command = TypeVar("Command", bound=Callable[..., Any])


def data_option(command: Command) -> Command:
    """Add `--data`."""
    return click.option(
        "--data",
        required=True,
        type=click.Path(path_type=Path),
        metavar="FILE",
        help="Questions, one JSON object a line; see docs/evaluate.md.",
    )(command)


def metric_option(command: Command) -> Command:
    """Add `--metric`, which `find_metric` reads."""
    return click.option(
        "--metric",
        default="auto",
        show_default=True,
        metavar="NAME",
        help=f"{', '.join(METRICS)}, or module:function of your own.",
    )(command)
