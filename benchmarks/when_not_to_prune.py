"""Where pruning hurts: the demo's questions by kind, pruned in several ways, and with a guard.

    python benchmarks/when_not_to_prune.py BUNDLE --data questions.jsonl --limit 100

Greedy answers, each scored right where it equals the accepted one. Writes the table as Markdown to
standard output, and with every count as JSON to --out, where cases of an earlier run stay.
"""

from __future__ import annotations

import json
import platform
from collections import defaultdict
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import click

from sparsevlm_trt.runtime import Session
from sparsevlm_trt.runtime.request import Options

PACKAGES = ("sparsevlm-trt", "onnxruntime", "numpy")
CASES: tuple[tuple[str, Options], ...] = (
    ("unpruned", {"method": "none"}),
    ("sparsevlm 192", {"budget": 192}),
    ("sparsevlm 64", {"budget": 64}),
    ("sparsevlm 64, original positions", {"budget": 64, "positions": "original"}),
    ("sparsevlm 192, original positions", {"budget": 192, "positions": "original"}),
    ("sparsevlm 128, original positions", {"budget": 128, "positions": "original"}),
    ("sparsevlm 96, original positions", {"budget": 96, "positions": "original"}),
    ("sparsevlm 32, original positions", {"budget": 32, "positions": "original"}),
    ("sparsevlm+ 64", {"method": "sparsevlm+", "budget": 64}),
    (
        "sparsevlm+ 64, compact positions",
        {"method": "sparsevlm+", "budget": 64, "positions": "compact"},
    ),
    ("sparsevlm 64, guard entropy", {"budget": 64, "guard": "entropy"}),
    ("sparsevlm 64, guard where=288", {"budget": 64, "guard": {"where": 288}}),
)


def read_questions(data: Path, limit: int | None) -> list[dict[str, Any]]:
    """Read the questions, as many of each kind as of any other as far as they go."""
    rows = [json.loads(line) for line in data.read_text().splitlines()]
    if limit is None:
        return rows
    by_kind = defaultdict(list)
    for row in rows:
        by_kind[row["kind"]].append(row)
    each = -(-limit // len(by_kind))
    return [row for kind in sorted(by_kind) for row in by_kind[kind][:each]]


def measure(
    session: Session, rows: Sequence[dict[str, Any]], folder: Path, wanted: Sequence[str]
) -> list[dict[str, Any]]:
    """Ask every question in every case that is wanted, or in all, and count."""
    num_layers = session.bundle.manifest.model.num_layers
    found = []
    for name, options in CASES:
        if wanted and name not in wanted:
            continue
        right: dict[str, int] = defaultdict(int)
        asked: dict[str, int] = defaultdict(int)
        tokens = 0.0
        for row in rows:
            parts = [{"type": "image"}, {"type": "text", "text": row["question"]}]
            result = session.generate(
                images=[folder / row["image"]],
                messages=[{"role": "user", "content": parts}],
                max_new_tokens=8,
                keep_logits=False,
                **options,
            )
            asked[row["kind"]] += 1
            answer = (result.text or "").strip().strip(".").casefold()
            right[row["kind"]] += answer in [text.casefold() for text in row["answers"]]
            left = {stage.layer: stage.num_visual_out for stage in result.trace.stages}
            now = result.trace.num_visual
            for layer in range(num_layers):
                now = left.get(layer, now)
                tokens += now / num_layers
        found.append(
            {
                "case": name,
                "average_visual_tokens": tokens / len(rows),
                "right": dict(sorted(right.items())),
                "asked": dict(sorted(asked.items())),
            }
        )
        click.echo(f"{name}: {sum(right.values())} of {len(rows)}", err=True)
    return found


def table(found: Sequence[dict[str, Any]]) -> str:
    """Lay the right answers out as Markdown."""
    kinds = list(found[0]["asked"])
    lines = [
        f"| | visual tokens | all | {' | '.join(kinds)} |",
        "|---" * (len(kinds) + 3) + "|",
    ]
    for row in found:
        right, asked = sum(row["right"].values()), sum(row["asked"].values())
        counts = [f"{row['right'].get(kind, 0)} of {row['asked'][kind]}" for kind in kinds]
        lines.append(
            f"| {row['case']} | {row['average_visual_tokens']:.0f} | {right} of {asked} | "
            f"{' | '.join(counts)} |"
        )
    return "\n".join(lines)


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path, exists=True))
@click.option("--data", type=click.Path(path_type=Path, exists=True), required=True)
@click.option("--limit", type=int, help="Ask about so many questions, all kinds alike.")
@click.option("--case", "wanted", multiple=True, help="Measure this case alone; repeatable.")
@click.option("--threads", type=int, default=1, show_default=True)
@click.option("--out", type=click.Path(path_type=Path))
def main(
    bundle: Path,
    data: Path,
    limit: int | None,
    wanted: tuple[str, ...],
    threads: int,
    out: Path | None,
) -> None:
    """Measure BUNDLE."""
    rows = read_questions(data, limit)
    with Session.load(bundle, threads=threads, image_cache_bytes=0) as session:
        found = measure(session, rows, data.parent, wanted)
    if out is not None and out.exists():
        new = {case["case"]: case for case in found}
        old = {case["case"]: case for case in json.loads(out.read_text())["cases"]}
        found = [{**old, **new}[name] for name, _ in CASES if name in {**old, **new}]
    click.echo(table(found))
    if out is not None:
        report = {
            "num_questions": len(rows),
            "machine": platform.processor() or platform.machine(),
            "versions": {name: metadata.version(name) for name in PACKAGES},
            "cases": found,
        }
        out.write_text(json.dumps(report, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
