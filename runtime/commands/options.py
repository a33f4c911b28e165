"""Options that several commands have, so that they are spelled and told alike."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import click

from sparsevlm_ops.methods import METHODS
from sparsevlm_trt.runtime.commands.method_options import NUMBER_OR_SHARE
from sparsevlm_trt.runtime.runner import RUNNERS
from sparsevlm_trt.runtime.runner_choice import AUTO
from sparsevlm_trt.runtime.schedule_file import find_schedule_file

__all__ = [
    "DEBUG",
    "PROVIDERS",
    "check_one_plan",
    "debug_option",
    "engine_options",
    "json_option",
    "no_verify_option",
    "pruning_options",
    "read_method",
    "read_schedule",
    "runner_options",
]

_FILE_METHOD = "sparsevlm.schedule-file.method"  # key in the context's meta
DEBUG = "sparsevlm.debug"  # key in the context's meta, which a group shares with its commands

# Short names of the execution providers; any other is given in full.
PROVIDERS = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "openvino": "OpenVINOExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
    "tensorrt-rtx": "NvTensorRTRTXExecutionProvider",
}

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


def no_verify_option(command: Command) -> Command:
    """Add `--no-verify`."""
    return click.option("--no-verify", is_flag=True, help="Do not hash the bundle's files first.")(
        command
    )


def read_schedule(
    ctx: click.Context, _: click.Parameter, value: str | tuple[str, ...] | None
) -> str | tuple[str, ...] | None:
    """Callback of `--schedule`: a file becomes its schedule, and names the method by default.

    Raises:
        InputError: The file is broken.
    """
    if value is None or isinstance(value, tuple):
        return None if value is None else tuple(_spelled(text) for text in value)
    file = find_schedule_file(value)
    if file is None:
        return value
    ctx.meta[_FILE_METHOD] = file.method
    return file.spell()


def _spelled(text: str) -> str:
    file = find_schedule_file(text)
    return text if file is None else file.spell()


def read_method(ctx: click.Context, _: click.Parameter, value: str | None) -> str | None:
    """Callback of `--method`: without it, that of the schedule's file, if there is one."""
    return ctx.meta.get(_FILE_METHOD) if value is None else value


def pruning_options(command: Command) -> Command:
    """Add `--method`, `--budget` and `--schedule`."""
    command = click.option(
        "--schedule",
        metavar="L:N,...|FILE",
        is_eager=True,  # its file may name the method
        callback=read_schedule,
        help="Visual tokens to keep after each pruning layer, like 2:300,6:200,15:110, or a file "
        "that calibrate budget made.",
    )(command)
    command = click.option(
        "--budget",
        type=NUMBER_OR_SHARE,
        help="Nominal average of visual tokens, such as 192, or a fraction of them, such as 0.33.",
    )(command)
    return click.option(
        "--method",
        type=click.Choice(list(METHODS)),
        callback=read_method,
        help="Pruning method; none keeps all.",
    )(command)


def runner_options(command: Command) -> Command:
    """Add `--runner`, `--provider` and `--threads`; providers arrive by their full names."""
    command = click.option(
        "--threads",
        type=click.IntRange(min=1),
        help="Processor threads.  [default: allowed cores]",
    )(command)
    command = click.option(
        "--provider",
        "providers",
        multiple=True,
        metavar="NAME",
        callback=lambda _ctx, _option, names: tuple(PROVIDERS.get(n.lower(), n) for n in names),
        help=f"Execution provider: {', '.join(PROVIDERS)} or a full name; the preferred first.",
    )(command)
    return click.option(
        "--runner",
        type=click.Choice([AUTO, *sorted(RUNNERS)]),
        default="onnxruntime",
        show_default=True,
        help="Engine; auto takes the fastest that loads the bundle here, as doctor tells.",
    )(command)


def engine_options(providers: Sequence[str], threads: int | None) -> dict[str, Any]:
    """What `open_runner` is told of these options: only those that were given."""
    options: dict[str, Any] = {"providers": list(providers)} if providers else {}
    return options if threads is None else {**options, "threads": threads}


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
