"""`sparsevlm doctor`: what this machine can run, and what is missing."""

from __future__ import annotations

import click

from sparsevlm_trt.runtime.commands.options import debug_option, json_option
from sparsevlm_trt.runtime.console import print_json
from sparsevlm_trt.runtime.doctor import doctor_report, doctor_text

__all__ = ["doctor"]


@click.command()
@json_option
@debug_option
@click.pass_context
def doctor(ctx: click.Context, *, as_json: bool) -> None:
    """Show what this machine can run, and what is missing.

    Ends with exit code 1 only if the base install itself is broken.
    """
    report = doctor_report()
    if as_json:
        print_json(report)
    else:
        click.echo(doctor_text(report))
    if not report["base_works"]:
        ctx.exit(1)
