"""Every family at the size of a published model, with as many visual tokens as it really has.

    python benchmarks/real_shapes.py WORKDIR [--family NAME ...] [--json FILE]

The vision tower is whole, the language model has its real widths and three layers (five of
Qwen3-VL, whose tower feeds three), the weights are noise (`real_configs.py`). Each family is
exported in float32 and answers one prompt, pruned to a third and a ninth of its visual tokens;
checkpoint and bundle are deleted after it. Each step is a process of its own, for its peak memory.
Needs 15 GB of disk.
"""

from __future__ import annotations

import json
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import numpy as np
from noise_checkpoint import save_noise, save_tokenizer
from real_configs import SHAPES, RealShape

MOST_BYTES = 18 << 30  # of address space: beyond it a step fails by itself, not its neighbours
QUESTION = "What is shown here, and what is unusual about it?"
COLUMNS = (
    "family",
    "of the size of",
    "weights",
    "visual tokens of each stage",
    "merged of these",
    "words between",
    "export s",
    "peak GB",
    "prefill s",
    "peak GB",
)


def make(shape: RealShape, folder: Path) -> dict[str, Any]:
    """Write the checkpoint."""
    checkpoint = folder / "checkpoint"
    weights = save_noise(shape.model, shape.config(shape.first_boundary + 3), checkpoint)
    save_tokenizer(checkpoint)
    (checkpoint / "preprocessor_config.json").write_text(json.dumps(shape.pixels))
    if shape.films is not None:
        (checkpoint / "video_preprocessor_config.json").write_text(json.dumps(shape.films))
    return {"weights": weights}


def export(shape: RealShape, folder: Path) -> dict[str, Any]:
    """Export it, cut after two of its layers."""
    from sparsevlm_trt.export import export_bundle

    first, second = shape.first_boundary, shape.first_boundary + 1
    start = time.perf_counter()
    export_bundle(folder / "checkpoint", folder / "bundle", schedule={first: 192, second: 64})
    return {"export_s": time.perf_counter() - start, "export_peak_gb": peak_gb()}


def answer(shape: RealShape, folder: Path) -> dict[str, Any]:
    """Answer one prompt, pruned twice."""
    from sparsevlm_trt.runtime.prompt import read_prompt
    from sparsevlm_trt.runtime.session import Session
    from sparsevlm_trt.runtime.trace import Clock

    rng = np.random.default_rng(0)
    seen = [
        rng.integers(256, size=(*shape.size, 3), dtype=np.uint8)
        for _ in range(shape.num_frames or 1)
    ]
    given: dict[str, Any] = {"videos": [seen]} if shape.num_frames else {"images": seen}
    with Session.load(folder / "bundle") as session:
        image, video = session.processor.placeholders
        given["prompt"] = f"{video if shape.num_frames else image}\n{QUESTION}"
        read = read_prompt(session.bundle.manifest, session.processor, Clock(), **given)
        count, first = len(read.places), shape.first_boundary
        schedule = {first: count // 3, first + 1: count // 9}
        pruned = session.generate(**given, schedule=schedule, max_new_tokens=2).trace
    assert pruned.num_patches == count
    words = len(pruned.words)
    for step, kept in zip(pruned.stages, schedule.values(), strict=True):
        assert len(step.kept) == kept + words, (step, kept)
        assert np.isfinite(step.scores).all()
    return {
        "visual": [count, *(step.num_visual_out - words for step in pruned.stages)],
        "merged": [step.num_merged for step in pruned.stages],
        "words": words,
        "prefill_s": pruned.prefill_ms / 1000,
        "run_peak_gb": peak_gb(),
    }


STEPS: dict[str, Callable[[RealShape, Path], dict[str, Any]]] = {
    "make": make,
    "export": export,
    "answer": answer,
}


def peak_gb() -> float:
    """The most memory that this process has held."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


def measured(family: str, folder: Path) -> dict[str, Any]:
    """Run all steps for one family; nothing stays on the disk."""
    found: dict[str, Any] = {}
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        for step in STEPS:
            command = [sys.executable, __file__, str(folder), "--family", family]
            command += ["--step", step]
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
            found |= json.loads(done.stdout.splitlines()[-1])
    finally:
        shutil.rmtree(folder)
    return found


def row(family: str, found: dict[str, Any]) -> str:
    """One line of the table."""
    cells = [
        f"`{family}`",
        SHAPES[family].published,
        f"{found['weights'] / 1e9:.2f} G",
        " → ".join(map(str, found["visual"])),
        ", ".join(map(str, found["merged"])),
        str(found["words"]),
        f"{found['export_s']:.0f}",
        f"{found['export_peak_gb']:.1f}",
        f"{found['prefill_s']:.1f}",
        f"{found['run_peak_gb']:.1f}",
    ]
    return f"| {' | '.join(cells)} |"


@click.command()
@click.argument("workdir", type=click.Path(path_type=Path))
@click.option("--family", "families", type=click.Choice(list(SHAPES)), multiple=True)
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Write the results.")
@click.option("--step", type=click.Choice(list(STEPS)), hidden=True)
def main(
    workdir: Path, families: tuple[str, ...], json_file: Path | None, step: str | None
) -> None:
    """Export and run the families at the sizes of published models."""
    if step is not None:
        resource.setrlimit(resource.RLIMIT_AS, (MOST_BYTES, MOST_BYTES))
        click.echo(json.dumps(STEPS[step](SHAPES[families[0]], workdir)))
        return
    results = {}
    click.echo(f"| {' | '.join(COLUMNS)} |\n|{'---|' * len(COLUMNS)}")
    for family in families or SHAPES:
        try:
            results[family] = measured(family, workdir / family)
        except subprocess.CalledProcessError as error:
            step, code = error.cmd[-1], error.returncode
            sys.exit(
                f"{family} | step {step} ended with {code} | expected 0 | see the error above"
            )
        click.echo(row(family, results[family]))
        if json_file is not None:
            json_file.write_text(json.dumps(results, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
