"""Time two or more bundles of one model against each other, in turns.

    python benchmarks/compare.py IMAGE BUNDLE BUNDLE... [--rounds 4]

For a choice about the graphs, such as docs/decisions/005. One thread, and the processor time of
the process, not the clock on the wall: other work on the machine then counts for little.
"""

from __future__ import annotations

import statistics
import time
from pathlib import Path

import click
from chain import BUDGETS, DECODE_STEPS, machine, pruning_of, read_prompt
from PIL import Image

from sparsevlm_trt.runtime import Session
from sparsevlm_trt.runtime.prompt import Prompt
from sparsevlm_trt.runtime.trace import Clock

TEXT_LENGTHS = (0, 64)


def times_of(session: Session, prompt: Prompt, budget: int | None) -> tuple[float, float]:
    """Milliseconds of a prefill, and of a decode step."""
    clock = Clock()
    started = time.process_time()
    logits, state = session.chain.prefill(
        prompt.embeds, prompt.layout, pruning_of(session, budget), DECODE_STEPS, clock
    )
    read = time.process_time()
    for _ in range(DECODE_STEPS):
        logits = session.chain.decode(logits.argmax(axis=1), state, clock)
    done = time.process_time()
    return (read - started) * 1e3, (done - read) * 1e3 / DECODE_STEPS


@click.command()
@click.argument("image", type=click.Path(exists=True, path_type=Path))
@click.argument("bundles", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path))
@click.option("--question", default="What digit is red?", show_default=True)
@click.option("--rounds", default=4, show_default=True)
def main(image: Path, bundles: tuple[Path, ...], question: str, rounds: int) -> None:
    """Print medians for each bundle, by text length and budget."""
    sessions = [Session.load(bundle, verify=False, threads=1) for bundle in bundles]
    prompts = [
        [read_prompt(session, Image.open(image), question, length) for length in TEXT_LENGTHS]
        for session in sessions
    ]
    keys = [(n, budget) for n in range(len(TEXT_LENGTHS)) for budget in BUDGETS]
    samples: dict[tuple[int, int | None, int], list[tuple[float, float]]] = {}
    for number in range(rounds + 1):  # the first warms up
        for n, budget in keys:
            for which, session in enumerate(sessions):
                sample = times_of(session, prompts[which][n], budget)
                if number:
                    samples.setdefault((n, budget, which), []).append(sample)
    click.echo(" ".join(f"{name} {value}" for name, value in machine().items()))
    click.echo(
        f"one thread, processor time, ms, medians of {rounds} rounds: prefill / decode step"
    )
    for n, budget in keys:
        figures = [
            tuple(map(statistics.median, zip(*samples[n, budget, which], strict=True)))
            for which in range(len(bundles))
        ]
        row = "  ".join(
            f"{bundle.name} {prefill:.0f} / {step:.2f}"
            for bundle, (prefill, step) in zip(bundles, figures, strict=True)
        )
        click.echo(f"text {prompts[0][n].layout.num_text:>3}  budget {budget or 'none':>4}  {row}")


if __name__ == "__main__":
    main()
