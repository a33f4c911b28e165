"""How a benchmark ends that was measured whole and missed a bar: with an exit code of its own.

`make benchmarks` goes on after it, and stops at any other failure.
"""

from __future__ import annotations

import sys
from typing import NoReturn

import click

__all__ = ["MISSED", "end_missed"]

MISSED = 3


def end_missed(what: str) -> NoReturn:
    """Say what was missed, and leave."""
    click.echo(what, err=True)
    sys.exit(MISSED)
