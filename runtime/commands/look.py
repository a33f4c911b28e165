"""`sparsevlm look`: which patches of an image an answer was made from, as a picture."""

from __future__ import annotations

import io
from pathlib import Path

import click

from sparsevlm_ops.methods import Positions
from sparsevlm_trt.runtime.answer_row import Result
from sparsevlm_trt.runtime.commands.method_options import method_options
from sparsevlm_trt.runtime.commands.options import (
    check_one_plan,
    debug_option,
    json_option,
    no_verify_option,
    pruning_options,
)
from sparsevlm_trt.runtime.console import print_json
from sparsevlm_trt.runtime.errors import InputError
from sparsevlm_trt.runtime.session import Session
from sparsevlm_trt.runtime.trace_text import counts_text

__all__ = ["look"]

PICTURE, PAGE = ".png", ".html"


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@click.argument("image", type=click.Path(path_type=Path))
@click.argument("question")
@click.option(
    "--image",
    "more",
    multiple=True,
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="One more image, behind the first; give it again for more.",
)
@pruning_options
@method_options
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="A .png, or an .html page that tells each patch's score.  [default: IMAGE's name "
    "with .look.png, in this folder]",
)
@click.option("--max-new-tokens", type=click.IntRange(min=1), default=64, show_default=True)
@no_verify_option
@json_option
@debug_option
def look(
    bundle: Path,
    image: Path,
    question: str,
    *,
    more: tuple[Path, ...],
    method: str | None,
    budget: int | float | None,
    schedule: str | None,
    positions: Positions | None,
    scale: float | None,
    bias: float | None,
    num_heads: int | float | None,
    guard: tuple[str, ...],
    out: Path | None,
    max_new_tokens: int,
    no_verify: bool,
    as_json: bool,
) -> None:
    """Draw what BUNDLE saw of IMAGE when it answered QUESTION.

    One picture: the image as the model saw it, then at every prune step the patches that were
    kept (clear), recycled (tinted) and dropped (dim), and their visual scores. The answer goes to
    stdout.
    """
    check_one_plan(budget, schedule)
    images = [image, *more]
    file = out or Path(f"{image.stem}.look{PICTURE}")
    _check_file(file, images)
    parts = [*({"type": "image"} for _ in images), {"type": "text", "text": question}]
    with Session.load(bundle, verify=not no_verify) as session:
        result = session.generate(
            images=images,
            messages=[{"role": "user", "content": parts}],
            method=method,
            budget=budget,
            schedule=schedule,
            positions=positions,
            scale=scale,
            bias=bias,
            num_heads=num_heads,
            guard=guard or None,
            max_new_tokens=max_new_tokens,
            keep_logits=False,
        )
    _write(file, _drawn(result, images, question, file.suffix.lower()))
    if as_json:
        told = {"text": result.text, "tokens": result.tokens, "file": file, "trace": result.trace}
        print_json(told)
        return
    click.echo(result.text)
    click.echo(f"{file} | {counts_text(result.trace)}", err=True)


def _check_file(file: Path, images: list[Path]) -> None:
    """Refuse a file that cannot be written, before anything runs.

    Raises:
        UsageError: It is of no known kind, or one of the images.
        InputError: It has no folder.
    """
    if file.suffix.lower() not in (PICTURE, PAGE):
        raise click.UsageError(f"--out {file} must end with {PICTURE} or {PAGE}.")
    if file.resolve() in [image.resolve() for image in images]:
        raise click.UsageError(f"--out {file} is the image itself.")
    if not file.absolute().parent.is_dir():
        raise InputError(
            f"--out {file} | got a folder that does not exist | expected an existing one | make it"
        )


def _drawn(result: Result, images: list[Path], question: str, suffix: str) -> bytes:
    """Make the content of the file."""
    if suffix == PAGE:
        page = result.trace.page(images, question=question, answer=result.text)
        return page.encode("utf-8")
    strip = result.trace.strip(images, question=question, answer=result.text)
    file = io.BytesIO()
    strip.save(file, "PNG", optimize=True)
    return file.getvalue()


def _write(file: Path, content: bytes) -> None:
    """Write the file.

    Raises:
        InputError: The system refuses.
    """
    try:
        file.write_bytes(content)
    except OSError as error:
        raise InputError(
            f"--out {file} | {error.strerror or error} | expected a file that can be written | "
            "name another"
        ) from error
