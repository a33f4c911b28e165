"""`sparsevlm run`: a question, with or without images, answered by a bundle."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import click

from sparsevlm_ops.methods import Positions
from sparsevlm_trt.runtime.commands.method_options import method_options
from sparsevlm_trt.runtime.commands.options import (
    check_one_plan,
    debug_option,
    engine_options,
    json_option,
    no_verify_option,
    pruning_options,
    runner_options,
)
from sparsevlm_trt.runtime.console import print_json
from sparsevlm_trt.runtime.request import Options
from sparsevlm_trt.runtime.session import Session
from sparsevlm_trt.runtime.timing import Timing
from sparsevlm_trt.runtime.trace_text import summary_line, trace_text
from sparsevlm_trt.runtime.video_loader import NUM_FRAMES, load_video

__all__ = ["run"]


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@click.argument("question")
@click.option(
    "--image",
    "images",
    multiple=True,
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="An image; give it again for more. Images come before the question.",
)
@click.option(
    "--video",
    "videos",
    multiple=True,
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="A video, after the images; give it again for more. Needs the extra `video`.",
)
@click.option(
    "--frames",
    type=click.IntRange(min=1),
    default=NUM_FRAMES,
    show_default=True,
    help="Frames to take of each video, evenly.",
)
@pruning_options
@method_options
@click.option(
    "--method-seed",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    help="Of a method that draws its tokens.",
)
@click.option("--max-new-tokens", type=click.IntRange(min=1), default=64, show_default=True)
@click.option(
    "--temperature", type=float, default=0.0, show_default=True, help="0: the likeliest token."
)
@click.option(
    "--top-k", type=int, default=0, show_default=True, help="Draw among so many; 0: all."
)
@click.option(
    "--top-p", type=float, default=1.0, show_default=True, help="Draw among this probability."
)
@click.option("--seed", type=int, help="Makes draws repeatable.")
@click.option(
    "--stop", multiple=True, metavar="TEXT", help="End the answer before this text; repeatable."
)
@runner_options
@click.option(
    "--raw-prompt",
    is_flag=True,
    help="Use the question as the whole prompt, with a placeholder (<image>, say) for each image.",
)
@no_verify_option
@click.option("--trace", "with_trace", is_flag=True, help="Show every step on stderr.")
@json_option
@debug_option
def run(
    bundle: Path,
    question: str,
    *,
    images: tuple[Path, ...],
    videos: tuple[Path, ...],
    frames: int,
    method: str | None,
    budget: int | float | None,
    schedule: str | None,
    positions: Positions | None,
    scale: float | None,
    bias: float | None,
    num_heads: int | float | None,
    guard: tuple[str, ...],
    method_seed: int,
    max_new_tokens: int,
    temperature: float,
    top_k: int,
    top_p: float,
    seed: int | None,
    stop: tuple[str, ...],
    runner: str,
    providers: tuple[str, ...],
    threads: int | None,
    raw_prompt: bool,
    no_verify: bool,
    with_trace: bool,
    as_json: bool,
) -> None:
    """Answer QUESTION with BUNDLE.

    The answer streams to stdout; times and counts follow on stderr.
    """
    check_one_plan(budget, schedule)
    options = Options(
        method=method,
        method_seed=method_seed,
        budget=budget,
        schedule=schedule,
        positions=positions,
        scale=scale,
        bias=bias,
        num_heads=num_heads,
        guard=guard or None,
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        seed=seed,
        stop=stop,
        stream=None if as_json else _print_piece,
        keep_logits=False,
    )
    engine = engine_options(providers, threads)
    started = time.perf_counter()
    with Session.load(bundle, runner, verify=not no_verify, **engine) as session:
        load_ms = (time.perf_counter() - started) * 1e3
        clips = [load_video(video, frames) for video in videos]
        if raw_prompt:
            result = session.generate(images=images, videos=clips, prompt=question, **options)
        else:
            messages = _messages(question, len(images), len(clips))
            result = session.generate(images=images, videos=clips, messages=messages, **options)
    trace = result.trace
    if as_json:
        timing = Timing.of(trace)
        print_json(
            {
                "text": result.text,
                "tokens": result.tokens,
                "finish_reason": result.finish_reason,
                "load_ms": load_ms,
                "first_token_ms": timing.first_token_ms,
                "tokens_per_s": timing.tokens_per_s,
                "trace": trace,
            }
        )
    else:
        click.echo()
        click.echo(summary_line(trace, len(result.tokens), load_ms), err=True)
    if with_trace:
        click.echo(f"\n{trace_text(trace)}", err=True)


def _messages(question: str, num_images: int, num_videos: int) -> list[dict[str, Any]]:
    """Write the conversation: the images, the videos, then the question."""
    if (
        not num_images and not num_videos
    ):  # templates of plain language models take no list of parts
        return [{"role": "user", "content": question}]
    parts: list[dict[str, str]] = [{"type": "image"}] * num_images
    parts += [{"type": "video"}] * num_videos
    return [{"role": "user", "content": [*parts, {"type": "text", "text": question}]}]


def _print_piece(piece: str, _: int) -> None:
    """Write text as it becomes certain."""
    if piece:
        click.echo(piece, nl=False)
