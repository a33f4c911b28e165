"""`sparsevlm help-page`: the help of all commands as one page, docs/cli.md."""

from __future__ import annotations

import click

__all__ = ["help_page"]

WIDTH = 88  # of a code block in the docs; the terminal's own would change the page
OPENING = """\
# The command line

Written by `python -m sparsevlm_trt.runtime.cli help-page > docs/cli.md`; do not edit it by hand.

Exit codes: 0 done, 1 an error with a remedy (one sentence on stderr), 2 wrong usage, 130
interrupted. `sparsevlm --debug COMMAND ...` shows the traceback of an error.
"""


@click.command()
@click.pass_context
def help_page(ctx: click.Context) -> None:
    """Write docs/cli.md to stdout."""
    root = ctx.find_root()
    group = root.command
    assert isinstance(group, click.Group)
    parts = [OPENING, _section("sparsevlm", group)]
    for name in group.list_commands(root):
        command = group.get_command(root, name)
        assert command is not None
        parts.append(_section(f"sparsevlm {name}", command))
        inner = command.commands if isinstance(command, click.Group) else {}
        parts += [_section(f"sparsevlm {name} {key}", one) for key, one in inner.items()]
    click.echo("\n".join(parts), nl=False)


def _section(path: str, command: click.Command) -> str:
    names = ["-h", "--help"]
    with click.Context(
        command, info_name=path, terminal_width=WIDTH, help_option_names=names
    ) as ctx:
        return f"## {path}\n\n```text\n{command.get_help(ctx)}\n```\n"
