"""What `gpu.py` found: kept after every section, compared, and told."""

from __future__ import annotations

import json
import signal
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
import numpy as np

_COPIES = ("MemcpyToHost", "MemcpyFromHost")


class Report:
    """The result so far: written after every section."""

    def __init__(self, path: Path) -> None:
        """Begin at a path."""
        self.path = path
        self.values: dict[str, Any] = {}

    @contextmanager
    def section(self, name: str, seconds: int) -> Iterator[dict[str, Any]]:
        """Run a section for at most so long; keep what it found, and its error if it fails."""
        found: dict[str, Any] = {}
        self.values[name] = found
        started = time.perf_counter()
        signal.signal(signal.SIGALRM, _too_long)
        signal.alarm(seconds)
        click.echo(f"-- {name}", err=True)
        try:
            yield found
        except Exception as error:  # the next section may still work
            found["error"] = f"{type(error).__name__}: {error}"
            click.echo(traceback.format_exc(), err=True)
        finally:
            signal.alarm(0)
            found["seconds"] = round(time.perf_counter() - started, 1)
            click.echo(f"   {found['seconds']} s", err=True)
            self.write()

    def write(self) -> None:
        """Save as JSON."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.write_text(json.dumps(self.values, indent=1, sort_keys=True) + "\n")


def _too_long(*_: object) -> None:
    raise TimeoutError("the section's time is over")


def compare(answers: dict[str, dict[str, Any]], ours: str) -> dict[str, Any]:
    """By reference and budget: equal tokens of all, the largest logit error, equal patches."""
    result: dict[str, Any] = {}
    for key, sides in answers.items():
        mine = sides.get(ours)
        if mine is None:
            continue
        for name, other in sides.items():
            if name == ours:
                continue
            row = result.setdefault(
                f"{key.split()[0]} vs {name}",
                {"answers": 0, "equal_answers": 0, "tokens": 0, "equal_tokens": 0}
                | {"logit_error": 0.0, "first_token_gap": 0.0, "kept": 0, "equal_kept": 0},
            )
            same = [a == b for a, b in zip(mine["tokens"], other["tokens"], strict=True)]
            before = same.index(False) if False in same else len(same)
            row["answers"] += 1
            row["equal_answers"] += before == len(same)
            row["tokens"] += len(same)
            row["equal_tokens"] += before  # behind the first difference they read other texts
            error = float(np.abs(mine["logits"] - other["logits"]).max())
            row["logit_error"] = max(row["logit_error"], error)
            first, another = mine["tokens"][0], other["tokens"][0]
            gap = float(other["logits"][another] - other["logits"][first])
            row["first_token_gap"] = max(row["first_token_gap"], gap)
            for one, another in zip(mine["kept"], other.get("kept", ()), strict=False):
                row["kept"] += len(one)
                row["equal_kept"] += len(set(one) & set(another))
    return result


def table(values: dict[str, Any]) -> str:
    """The figures to read first."""
    lines = []
    for name, part in values.items():
        if "chain" not in part:
            continue
        torch_row = part.get("transformers", {})
        lines.append(
            f"{name}: batch {part['batch']}, {part['visual']} + {part['text']} tokens, medians of "
            f"{part['rounds']} rounds"
        )
        lines.append(
            f"{'':>12} {'vision':>8} {'prefill':>8} {'x none':>7} {'x HF':>6} {'host':>6} "
            f"{'decode':>7} {'x HF':>6} {'host':>6} {'KV MB':>7} {'GPU GB':>7}"
        )
        base = part["chain"]["none"]
        for budget, row in part["chain"].items():
            by_torch = {
                kind: f"{torch_row[kind] / row[kind]:6.2f}" if torch_row else "     -"
                for kind in ("prefill_ms", "decode_ms")
            }
            lines.append(
                f"{budget:>12} {row['vision_ms']:8.2f} {row['prefill_ms']:8.2f} "
                f"{base['prefill_ms'] / row['prefill_ms']:7.2f} {by_torch['prefill_ms']} "
                f"{row['host_prefill_ms']:6.2f} {row['decode_ms']:7.3f} {by_torch['decode_ms']} "
                f"{row['host_decode_ms']:6.3f} {row['kv_bytes'] / 1e6:7.1f} "
                f"{part['used_gpu_bytes'][budget] / 1e9:7.2f}"
            )
        if torch_row:
            lines.append(
                f"{'transformers':>12} {torch_row['vision_ms']:8.2f} "
                f"{torch_row['prefill_ms']:8.2f} {'':21} {torch_row['decode_ms']:7.3f}"
            )
    for name, row in values.get("demo", {}).get("comparisons", {}).items():
        lines.append(
            f"{name:<36} answers {row['equal_answers']}/{row['answers']}, tokens "
            f"{row['equal_tokens']}/{row['tokens']}, kept {row['equal_kept']}/{row['kept']}, "
            f"logits within {row['logit_error']:.3g}, first token worse by at most "
            f"{row['first_token_gap']:.3g}"
        )
    for graph, places in values.get("placement", {}).get("graphs", {}).items():
        spelled = "; ".join(f"{name} {sum(ops.values())}" for name, ops in places.items())
        copies = sum(ops.get(op, 0) for ops in places.values() for op in _COPIES)
        lines.append(f"{graph:<24} {spelled}; copies {copies}")
    errors = {name: part["error"] for name, part in values.items() if "error" in part}
    lines += [f"FAILED {name}: {error}" for name, error in errors.items()]
    return "\n".join(lines)
