"""`sparsevlm demo`: the whole way on the demo model, from its checkpoint to a parity line."""

from __future__ import annotations

from pathlib import Path

import click

from sparsevlm_trt.export.demo import ask_all, ensure_bundle, read_sample
from sparsevlm_trt.export.formats import DTYPES
from sparsevlm_trt.runtime.commands.options import debug_option, json_option
from sparsevlm_trt.runtime.console import Progress, print_json
from sparsevlm_trt.runtime.session import Session
from sparsevlm_trt.runtime.table import format_table
from sparsevlm_trt.runtime.units import spell_ms

__all__ = ["demo"]

WORKDIR = Path(".cache/demo")
SAMPLE = Path("examples/digits-vlm/sample")
BUDGETS = (None, 192, 64)


@click.command()
@click.option(
    "--checkpoint",
    type=click.Path(path_type=Path),
    help="The demo model's folder.  [default: checkpoint in the workdir]",
)
@click.option(
    "--workdir",
    type=click.Path(path_type=Path),
    default=WORKDIR,
    show_default=True,
    help="Where the bundle is kept.",
)
@click.option(
    "--sample",
    type=click.Path(path_type=Path),
    default=SAMPLE,
    show_default=True,
    help="A folder with scene.png and questions.json.",
)
@click.option("--dtype", type=click.Choice(DTYPES), default="float32", show_default=True)
@json_option
@debug_option
@click.pass_context
def demo(
    ctx: click.Context,
    *,
    checkpoint: Path | None,
    workdir: Path,
    sample: Path,
    dtype: str,
    as_json: bool,
) -> None:
    """Export the demo model, ask three questions about a picture, check parity.

    Each question is answered unpruned and at budgets of 192 and 64 visual tokens. The bundle is
    kept, and exported again only when the checkpoint is newer. Ends with exit code 1 if the bundle
    does not agree with PyTorch.
    """
    asked = read_sample(sample)
    source = checkpoint or workdir / "checkpoint"
    bundle = workdir / f"bundle-{dtype}"
    with Progress("exporting") as progress:
        ensure_bundle(source, bundle, dtype, progress)
    with Session.load(bundle, image_cache_bytes=0) as session:
        answers = list(ask_all(session, asked, BUDGETS))
    if not as_json:
        header = ["question", "budget", "answer", "visual tokens", "LM prefill", "total"]
        rows = [
            (
                answer.question,
                answer.budget or "unpruned",
                answer.text,
                f"{answer.average_visual_tokens:.0f}",
                spell_ms(answer.language_ms),
                spell_ms(answer.total_ms),
            )
            for answer in answers
        ]
        click.echo(f"{asked.image}\n\n{format_table(header, rows)}\n")
        click.echo(
            "budget: nominal; visual tokens: the true average over the layers; LM prefill: the "
            "language model alone; total: picture and question to the last token\n"
        )
    # PyTorch takes seconds to import, which --help need not wait for.
    from sparsevlm_trt.export.parity import check_parity

    parity = check_parity(
        bundle,
        source,
        images=[asked.image],
        question=asked.questions[0][0],
        max_new_tokens=16,
        progress=None if as_json else _show,
    )
    if as_json:
        print_json(
            {
                "bundle": bundle,
                "image": asked.image,
                "answers": answers,
                "parity": {"passed": parity.passed, "line": parity.line()},
            }
        )
    else:
        click.echo(parity.line())
    if not parity.passed:
        ctx.exit(1)


def _show(line: str) -> None:
    """Tell what the comparison does."""
    click.echo(f"parity: {line}", err=True)
