"""What the gain of company can be: time of a prompt, and of a decode pass by rows and by part."""

from __future__ import annotations

import statistics
import time
from pathlib import Path

import click
import numpy as np
from serving_client import (
    bundle_argument,
    json_option,
    picture_argument,
    question_argument,
    write,
)

from sparsevlm_trt.runtime import Session
from sparsevlm_trt.runtime.prompt import prompt_from_text
from sparsevlm_trt.runtime.pruning_plan import plan_pruning
from sparsevlm_trt.runtime.slots import SlotBatch
from sparsevlm_trt.runtime.trace import Clock

ROWS = (1, 2, 4, 8)  # that decode together


@click.command()
@bundle_argument
@picture_argument
@question_argument
@json_option
@click.option("--passes", default=12, show_default=True, help="Rounds of one pass for each count.")
@click.option("--tokens", default=64, show_default=True, help="Of an answer, for the gain.")
def profile(
    bundle: Path, picture: Path, question: str, json_path: Path | None, passes: int, tokens: int
) -> None:
    """Time a prompt and a decode pass by rows and by part: what the gain of company can be."""
    parts: dict[int, list[dict[str, float]]] = {count: [] for count in ROWS}
    content = [{"type": "image"}, {"type": "text", "text": question}]
    messages = [{"role": "user", "content": content}]
    with Session.load(bundle, verify=False, image_cache_bytes=0) as session:
        manifest, prompts = session.bundle.manifest, []
        batches = {count: SlotBatch(session.chain, manifest, count) for count in ROWS}
        plan = plan_pruning(manifest, budget=64)
        for _ in range(6):  # the first warms up
            started, clock = time.perf_counter(), Clock()
            prompt = prompt_from_text(
                session.chain,
                manifest,
                session.processor,
                clock,
                images=[picture],
                messages=messages,
            )
            _, state = session.chain.prefill(
                prompt.embeds, prompt.layout, plan, 0, clock, prompt.places, prompt.deepstack
            )
            prompts.append(1e3 * (time.perf_counter() - started))
        for count, batch in batches.items():
            for _ in range(count):
                batch.join(state)
        for number in range(passes + 1):  # counts in turn; the first warms up
            for count, batch in batches.items():
                clock = Clock()
                batch.decode(np.full(count, 5, np.int64), clock)
                spent = {"stages": 0.0, "embed and head": 0.0}
                for step, ms in clock.steps:
                    spent["stages" if step.startswith("stage") else "embed and head"] += ms
                _, spent["host"] = clock.lap()
                if number:
                    parts[count].append(spent)
    prompt_ms = statistics.median(prompts[1:])
    rows = {
        count: {name: statistics.median(each[name] for each in found) for name in found[0]}
        for count, found in parts.items()
    }
    whole = {
        count: statistics.median(sum(each.values()) for each in parts[count]) for count in ROWS
    }
    click.echo(f"a prompt {prompt_ms:.0f} ms")
    for count in ROWS:
        one, each = prompt_ms + tokens * whole[1], prompt_ms + tokens * whole[count] / count
        told = ", ".join(f"{name} {ms:.1f}" for name, ms in rows[count].items())
        click.echo(
            f"{count} rows: a pass {whole[count]:.1f} ms ({told}); decoding gains "
            f"{count * whole[1] / whole[count]:.2f}, answers of {tokens} tokens {one / each:.2f}"
        )
    write({"prompt_ms": prompt_ms, "pass_ms": whole, "parts_ms": rows}, json_path)
