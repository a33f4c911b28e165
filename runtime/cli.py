"""The command `sparsevlm`: a group that imports a command only when it is called."""

from __future__ import annotations

import click
from click.shell_completion import CompletionItem

from sparsevlm_trt.runtime.commands.options import DEBUG, debug_option
from sparsevlm_trt.runtime.commands.registry import COMMANDS
from sparsevlm_trt.runtime.errors import SparseVLMError
from sparsevlm_trt.runtime.extras import DISTRIBUTION, load_attribute

__all__ = ["LazyGroup", "main"]

INTERRUPTED = 130  # what shells report of a program that Ctrl-C ended


class LazyGroup(click.Group):
    """Knows its commands by name and summary; loads one when it is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Name the commands, in the order of the work."""
        return [name for name, command in COMMANDS.items() if not command.hidden]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import a command.

        Raises:
            MissingPackageError: It needs packages that are not installed.
        """
        spec = COMMANDS.get(cmd_name)
        if spec is None:
            return None
        command = load_attribute(spec.target, extra=spec.extra, who=f"sparsevlm {cmd_name}")
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands in the help without importing them."""
        rows = [(name, COMMANDS[name].summary) for name in self.list_commands(ctx)]
        with formatter.section("Commands"):
            formatter.write_dl(rows)

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Complete a command's name without importing any."""
        return [
            CompletionItem(name, help=COMMANDS[name].summary)
            for name in self.list_commands(ctx)
            if name.startswith(incomplete)
        ]

    def invoke(self, ctx: click.Context) -> object:
        """Run the command; an error with a remedy becomes one sentence."""
        try:
            return super().invoke(ctx)
        except SparseVLMError as error:
            if ctx.meta.get(DEBUG):
                raise
            raise click.ClickException(str(error)) from error
        except click.ClickException as error:  # a command told the error by itself
            if ctx.meta.get(DEBUG) and isinstance(error.__cause__, SparseVLMError):
                raise error.__cause__ from None
            raise
        except KeyboardInterrupt:
            click.echo("Interrupted.", err=True)
            ctx.exit(INTERRUPTED)


@click.group(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Every command explains itself: sparsevlm COMMAND --help.",
)
@click.version_option(package_name=DISTRIBUTION, prog_name="sparsevlm")
@debug_option
def main() -> None:
    """Export vision-language models stage by stage, prune visual tokens between the stages.

    A checkpoint becomes a bundle (export), a bundle answers questions (run).
    """


if __name__ == "__main__":
    main()
