"""Time the chain, pruned against unpruned, in one interleaved run.

    python benchmarks/chain.py CHECKPOINT [--rounds 9] [--json FILE]

Exports the checkpoint (float32) if need be, reads one picture and question, and takes turns: every
round runs every budget at every text length once, so that a drift of the machine hits all alike.
Prints medians, and holds them to the bars: the language model's prefill gains at least 0.95 x what
the operations say, time outside the graphs is at most 3 % of prefill and 10 % of a decode step and
a decode step costs the same whatever the cache's capacity.

Text lengths: the demo's own question; 64 tokens; and 118, which the paper's published FLOPs imply.
Longer ones repeat the question.
"""

from __future__ import annotations

import json
import platform
import statistics
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path

import click
import numpy as np
from bars import end_missed
from PIL import Image

from sparsevlm_trt.runtime import Session
from sparsevlm_trt.runtime.boundary import Pruning
from sparsevlm_trt.runtime.flops import chain_cost
from sparsevlm_trt.runtime.prompt import Prompt, prompt_from_text
from sparsevlm_trt.runtime.pruning_plan import plan_pruning
from sparsevlm_trt.runtime.threads import allowed_cpus
from sparsevlm_trt.runtime.trace import Clock

BUDGETS = (None, 192, 128, 64)
TEXT_LENGTHS = (0, 64, 118)  # at least so many tokens; 0: the question as it is
DECODE_STEPS = 16
CAPACITIES = (DECODE_STEPS, 64 * DECODE_STEPS)
BARS = {"gain": 0.95, "host_prefill": 0.03, "host_decode": 0.10, "capacity": 1.05}


Row = dict[str, "int | float | None"]


@dataclass(frozen=True, slots=True)
class Sample:
    """One prefill and the decode steps after it; milliseconds."""

    prefill_ms: float
    host_prefill_ms: float
    decode_ms: float
    host_decode_ms: float
    kv_bytes: int


def read_prompt(session: Session, image: Image.Image, question: str, num_text: int) -> Prompt:
    """The picture and at least `num_text` tokens of questions, as embeddings."""
    text = question
    while True:
        content = [{"type": "image"}, {"type": "text", "text": text}]
        prompt = prompt_from_text(
            session.chain,
            session.bundle.manifest,
            session.processor,
            Clock(),
            images=[image],
            messages=[{"role": "user", "content": content}],
        )
        if prompt.layout.length - prompt.layout.num_visual >= num_text:
            return prompt
        text = f"{text} {question}"


def pruning_of(session: Session, budget: int | None) -> Pruning:
    """What a request with this budget gets."""
    method = "none" if budget is None else "sparsevlm"
    return plan_pruning(session.bundle.manifest, method=method, budget=budget)


def run_once(session: Session, prompt: Prompt, pruning: Pruning, num_new: int) -> Sample:
    """Prefill and decode; the cache has room for `num_new` more tokens."""
    chain = session.chain
    clock = Clock()
    logits, state = chain.prefill(prompt.embeds, prompt.layout, pruning, num_new, clock)
    prefill_ms, host_prefill_ms = clock.lap()
    steps = []
    for _ in range(DECODE_STEPS):
        clock.restart()
        logits = chain.decode(logits.argmax(axis=1), state, clock)
        steps.append(clock.lap())
    return Sample(
        prefill_ms,
        host_prefill_ms,
        statistics.median(wall for wall, _ in steps),
        statistics.median(host for _, host in steps),
        sum(cache.nbytes for cache in state.caches),
    )


def medians(samples: list[Sample]) -> Sample:
    """The median of each figure."""
    rows = [asdict(sample) for sample in samples]
    return Sample(**{name: statistics.median(row[name] for row in rows) for name in rows[0]})


def machine() -> dict[str, object]:
    """What the figures were taken on."""
    model = next(
        (
            line.split(":", 1)[1].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        platform.processor(),
    )
    return {
        "cpu": model,
        "threads": allowed_cpus(),
        "python": platform.python_version(),
        "onnxruntime": metadata.version("onnxruntime"),
        "numpy": np.__version__,
    }


def run_rounds(
    session: Session, prompts: list[Prompt], rounds: int
) -> dict[tuple[int, int | None, int], Sample]:
    """Medians by (prompt, budget, room for new tokens)."""
    keys = [(n, budget, CAPACITIES[0]) for n in range(len(prompts)) for budget in BUDGETS]
    keys.append((0, 192, CAPACITIES[1]))
    samples: dict[tuple[int, int | None, int], list[Sample]] = {key: [] for key in keys}
    for number in range(rounds + 1):
        for key in keys:
            n, budget, capacity = key
            sample = run_once(session, prompts[n], pruning_of(session, budget), capacity)
            if number:  # the first round warms up
                samples[key].append(sample)
    return {key: medians(rows) for key, rows in samples.items()}


def compare(
    session: Session,
    prompt: Prompt,
    budget: int | None,
    samples: dict[tuple[int | None, int], Sample],
) -> Row:
    """One budget against the unpruned chain, measured and by operations."""
    manifest, num_visual = session.bundle.manifest, prompt.layout.num_visual
    num_text = prompt.layout.length - num_visual
    flops = {
        each: chain_cost(
            manifest.model,
            None,
            manifest.stages,
            pruning_of(session, each).schedule,
            num_visual=num_visual,
            num_text=num_text,
        ).prefill_flops
        for each in (None, budget)
    }
    sample, base = samples[budget, CAPACITIES[0]], samples[None, CAPACITIES[0]]
    speedup, promised = base.prefill_ms / sample.prefill_ms, flops[None] / flops[budget]
    return {
        "text": num_text,
        "budget": budget,
        "prefill_ms": sample.prefill_ms,
        "speedup": speedup,
        "flop_ratio": promised,
        "gain": speedup / promised,
        "host_prefill": sample.host_prefill_ms / sample.prefill_ms,
        "decode_ms": sample.decode_ms,
        "host_decode": sample.host_decode_ms / sample.decode_ms,
        "kv_mb": sample.kv_bytes / 1e6,
    }


def misses(row: Row) -> list[str]:
    """Which bars a row misses."""
    shares = [n for n in ("host_prefill", "host_decode") if float(row[n] or 0) > BARS[n]]
    return ["gain"] * (float(row["gain"] or 0) < BARS["gain"]) + shares


def table(rows: list[Row], rounds: int) -> str:
    """The rows as text."""
    lines = [
        f"medians of {rounds} rounds; text: tokens beside the visual ones; gain: measured "
        "speed-up / that by FLOPs; host: share outside the graphs",
        f"{'text':>5} {'budget':>6} {'prefill ms':>10} {'speed-up':>8} {'by FLOPs':>8} "
        f"{'gain':>5} {'host':>5} {'decode ms':>9} {'host':>5} {'KV MB':>6}",
    ]
    lines += [
        f"{row['text']:>5} {row['budget'] or 'none':>6} {row['prefill_ms']:10.1f} "
        f"{row['speedup']:8.2f} {row['flop_ratio']:8.2f} {row['gain']:5.2f} "
        f"{row['host_prefill']:5.1%} {row['decode_ms']:9.2f} {row['host_decode']:5.1%} "
        f"{row['kv_mb']:6.1f}"
        for row in rows
    ]
    return "\n".join(lines)


@click.command()
@click.argument("checkpoint", type=click.Path(exists=True, path_type=Path))
@click.option("--bundle", type=click.Path(path_type=Path), default=Path(".cache/bench/bundle"))
@click.option("--image", type=click.Path(path_type=Path), help="Default: the demo's picture.")
@click.option("--question", default="What digit is red?", show_default=True)
@click.option("--rounds", default=9, show_default=True)
@click.option("--json", "json_file", type=click.Path(path_type=Path))
def main(
    checkpoint: Path,
    bundle: Path,
    image: Path | None,
    question: str,
    rounds: int,
    json_file: Path | None,
) -> None:
    """Time the chain and hold it to the bars."""
    if not bundle.is_dir():
        from sparsevlm_trt.export import export_bundle

        bundle.parent.mkdir(parents=True, exist_ok=True)
        export_bundle(checkpoint, bundle)
    picture = image or Path(__file__).parents[1] / "examples/digits-vlm/sample/scene.png"
    with Session.load(bundle) as session:
        pixels = Image.open(picture)
        prompts = [read_prompt(session, pixels, question, num_text) for num_text in TEXT_LENGTHS]
        samples = run_rounds(session, prompts, rounds)
        rows = [
            compare(
                session, prompt, budget, {key[1:]: s for key, s in samples.items() if key[0] == n}
            )
            for n, prompt in enumerate(prompts)
            for budget in BUDGETS
        ]
    roomy, tight = samples[0, 192, CAPACITIES[1]], samples[0, 192, CAPACITIES[0]]
    capacity = roomy.decode_ms / tight.decode_ms
    facts = machine()
    click.echo(" ".join(f"{name} {value}" for name, value in facts.items()))
    click.echo(table(rows, rounds))
    grown = CAPACITIES[1] / CAPACITIES[0]
    click.echo(f"decode with {grown:.0f} x the room for new tokens: x {capacity:.3f}")
    if json_file is not None:
        json_file.parent.mkdir(parents=True, exist_ok=True)
        record = {"machine": facts, "rounds": rounds, "rows": rows, "capacity": capacity}
        json_file.write_text(json.dumps(record, indent=1, sort_keys=True) + "\n")
    missed = [f"{row['text']}/{row['budget']} {name}" for row in rows for name in misses(row)]
    missed += ["capacity"] * (capacity > BARS["capacity"])
    if missed:
        end_missed(f"bars missed (text/budget): {', '.join(missed)}")


if __name__ == "__main__":
    main()
