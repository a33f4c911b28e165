"""`sparsevlm parity`: does a bundle compute what its checkpoint computes?"""

from __future__ import annotations

from pathlib import Path

import click

from sparsevlm_trt.runtime.commands.options import read_method, read_schedule
from sparsevlm_trt.runtime.errors import SparseVLMError

__all__ = ["parity"]


@click.command(short_help="Compare a bundle with its checkpoint in PyTorch.")
@click.argument("bundle", type=click.Path(path_type=Path))
@click.argument("checkpoint", type=click.Path(path_type=Path))
@click.option(
    "--images",
    "--image",
    "images",
    type=click.Path(path_type=Path),
    multiple=True,
    metavar="FILE",
    help="An image to ask about; may be repeated. Without: a synthetic one.",
)
@click.option("--question", metavar="TEXT", help="What to ask about each image.")
@click.option(
    "--method",
    metavar="NAME",
    callback=read_method,
    help="Pruning method; the bundle's by default.",
)
@click.option("--budget", type=int, help="Nominal average of visual tokens: 192, 128, 96 or 64.")
@click.option(
    "--schedule",
    metavar="L:N,...|FILE",
    is_eager=True,  # its file may name the method
    callback=read_schedule,
    help="In place of a budget.",
)
@click.option("--runner", default="onnxruntime", show_default=True, help="Inference engine.")
@click.option(
    "--max-new-tokens",
    type=click.IntRange(min=2),
    default=32,
    show_default=True,
    help="Tokens of each answer.",
)
@click.option("--seed", type=int, default=0, show_default=True, help="Of synthetic prompts.")
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
@click.option(
    "--report",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Where to write the report; in the bundle's reports/ by default.",
)
def parity(
    bundle: Path,
    checkpoint: Path,
    images: tuple[Path, ...],
    question: str | None,
    method: str | None,
    budget: int | float | None,
    schedule: str | None,
    runner: str,
    max_new_tokens: int,
    seed: int,
    as_json: bool,
    report: Path | None,
) -> None:
    """Compare BUNDLE with the CHECKPOINT it was made of, pruned and unpruned.

    Three questions, a verdict each: does every graph compute what PyTorch computes, are the same
    visual tokens kept at every boundary, and are logits and tokens the same (also with the
    reference's decisions replayed)?

    Exit status: 0 all verdicts good, 1 one failed or could not be reached, 2 wrong usage.
    """
    if budget is not None and schedule is not None:
        raise click.UsageError("give --budget or --schedule, not both")
    # Torch and transformers take seconds to import; --help and usage errors need neither.
    from sparsevlm_trt.export.parity import check_parity

    try:
        found = check_parity(
            bundle,
            checkpoint,
            images=images,
            question=question,
            method=method,
            budget=budget,
            schedule=schedule,
            runner=runner,
            max_new_tokens=max_new_tokens,
            seed=seed,
            report=report,
            progress=lambda line: click.echo(line, err=True),
        )
    except SparseVLMError as error:
        raise click.ClickException(str(error)) from error
    click.echo(found.to_text() if as_json else found.page(), nl=False)
    if not found.passed:
        raise SystemExit(1)
