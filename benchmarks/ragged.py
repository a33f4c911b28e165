"""Throughput of mixed prompts answered together, against one after the other.

    python benchmarks/ragged.py BUNDLE [--rounds 3] [--json FILE]

Eight prompts of different questions, with one picture, with two, and with none. Every round
answers them one by one and then together. Throughput is tokens made over the time of all answers,
vision and prefill in it; the bar is 1.5 x, and tokens equal to those of the single runs. The time
of the decode steps alone is given too: a prefill gains nothing from company.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import click
from chain import machine
from PIL import Image

from sparsevlm_trt.runtime import Session

BAR = 1.5
QUESTIONS = (
    (1, "What digit is red?"),
    (0, "Write a short story about a lighthouse."),
    (1, "How many digits are in the picture, and which colours do they have? List all of them."),
    (2, "Is there a digit that both pictures share?"),
    (0, "What is a prime number? Explain it to a child, with two examples."),
    (1, "Which digit is at the top left?"),
    (0, "Name three colours."),
    (1, "Describe the picture."),
)


def prompt_of(num_images: int, question: str, picture: Image.Image) -> dict[str, Any]:
    """A prompt of `Session.generate_batch`."""
    parts: list[dict[str, str]] = [{"type": "image"}] * num_images
    content: Any = [*parts, {"type": "text", "text": question}] if num_images else question
    messages = [{"role": "user", "content": content}]
    return {"images": [picture] * num_images, "messages": messages}


@click.command()
@click.argument("bundle", type=click.Path(exists=True, path_type=Path))
@click.option("--image", type=click.Path(path_type=Path), help="Default: the demo's picture.")
@click.option("--max-new-tokens", default=64, show_default=True)
@click.option("--budget", default=64, show_default=True)
@click.option("--rounds", default=3, show_default=True)
@click.option("--threads", type=int)
@click.option("--json", "json_file", type=click.Path(path_type=Path))
def main(
    bundle: Path,
    image: Path | None,
    max_new_tokens: int,
    budget: int,
    rounds: int,
    threads: int | None,
    json_file: Path | None,
) -> None:
    """Time a ragged batch and hold it to the bar."""
    example = Path(__file__).parents[1] / "examples/digits-vlm/sample/scene.png"
    picture = Image.open(image or example)
    prompts = [prompt_of(count, question, picture) for count, question in QUESTIONS]
    options: dict[str, Any] = {"max_new_tokens": max_new_tokens, "budget": budget}
    options |= {"stop_tokens": (), "keep_logits": False}  # all answers of one length
    engine = {} if threads is None else {"threads": threads}
    times: dict[str, list[float]] = {"alone": [], "together": []}
    decode: dict[str, list[float]] = {"alone": [], "together": []}
    with Session.load(bundle, verify=False, image_cache_bytes=0, **engine) as session:
        for number in range(rounds + 1):  # the first warms up
            started = time.perf_counter()
            alone = [session.generate(**prompt, **options) for prompt in prompts]
            between = time.perf_counter()
            together = session.generate_batch(prompts, **options)
            done = time.perf_counter()
            if number:
                times["alone"].append(between - started)
                times["together"].append(done - between)
                decode["alone"].append(sum(sum(r.trace.decode_ms) for r in alone) / 1e3)
                decode["together"].append(sum(together[0].trace.decode_ms) / 1e3)
    differing = [
        n for n, (a, b) in enumerate(zip(alone, together, strict=True)) if a.tokens != b.tokens
    ]
    num_tokens = sum(len(result.tokens) for result in together)
    lengths = [(r.trace.prefix_length + r.trace.num_visual + r.trace.num_text) for r in together]
    whole = {name: statistics.median(each) for name, each in times.items()}
    steps = {name: statistics.median(each) for name, each in decode.items()}
    gain, step_gain = (each["alone"] / each["together"] for each in (whole, steps))
    facts = machine()
    click.echo(" ".join(f"{name} {value}" for name, value in facts.items()))
    click.echo(f"prompts of {', '.join(map(str, lengths))} tokens; budget {budget}")
    click.echo(
        f"{num_tokens} tokens, medians of {rounds} rounds: "
        f"alone {whole['alone']:.2f} s ({num_tokens / whole['alone']:.1f} tokens/s), "
        f"together {whole['together']:.2f} s ({num_tokens / whole['together']:.1f} tokens/s): "
        f"x {gain:.2f}; decode steps only x {step_gain:.2f}"
    )
    if json_file is not None:
        json_file.parent.mkdir(parents=True, exist_ok=True)
        record = {"machine": facts, "lengths": lengths, "seconds": whole, "decode_seconds": steps}
        record |= {"gain": gain, "decode_gain": step_gain, "differing": differing}
        json_file.write_text(json.dumps(record, indent=1, sort_keys=True) + "\n")
    if differing:
        sys.exit(f"tokens differ from the single runs: prompts {differing}")
    click.echo("tokens equal to the single runs: 8 of 8")
    if gain < BAR:
        sys.exit(f"bar missed: x {gain:.2f} of {BAR}")


if __name__ == "__main__":
    main()
