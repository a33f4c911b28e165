"""One interleaved run: every round runs every case once, so that a drift hits all alike."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from sparsevlm_trt.runtime.bench.machine import resident_bytes
from sparsevlm_trt.runtime.errors import InputError
from sparsevlm_trt.runtime.session import Session
from sparsevlm_trt.runtime.timing import Timing
from sparsevlm_trt.runtime.trace import Trace

__all__ = ["Case", "Contender", "OursContender", "run_rounds", "split_runner"]

PARTS = ("embed", "raters", "stage", "prune", "head")


@dataclass(frozen=True, slots=True)
class Case:
    """Who runs, and how it prunes; a budget of None keeps all."""

    contender: str
    method: str
    budget: int | None


class Contender(Protocol):
    """Something that reads a prompt and decodes.

    Attributes:
        load_ms: Time that opening it took.
        load_bytes: Memory that opening it took; None where unknown.
    """

    load_ms: float
    load_bytes: int | None

    def sample(self, case: Case, num_steps: int) -> dict[str, float]:
        """Run once; milliseconds and bytes by name."""


class OursContender:
    """A bundle on one engine."""

    def __init__(
        self, bundle: Path, runner: str, options: Mapping[str, Any], image: Path, question: str
    ) -> None:
        """Open a session, without hashing the bundle."""
        before, started = resident_bytes(), time.perf_counter()
        self.session = Session.load(bundle, runner, verify=False, **options)
        self.load_ms = (time.perf_counter() - started) * 1e3
        after = resident_bytes()
        self.load_bytes = None if before is None or after is None else after - before
        self._image, self._question = image, question

    def sample(self, case: Case, num_steps: int) -> dict[str, float]:
        """Answer the question once; see `Contender`."""
        content = [{"type": "image"}, {"type": "text", "text": self._question}]
        budget = None if case.method == "none" else case.budget
        result = self.session.generate(
            images=[self._image],
            messages=[{"role": "user", "content": content}],
            method=case.method,
            budget=budget,
            max_new_tokens=num_steps + 1,
            stop_tokens=(),
            keep_logits=False,
        )
        return sample_of(result.trace)


def sample_of(trace: Trace) -> dict[str, float]:
    """Split the time of an answer into parts."""
    timing = Timing.of(trace)
    parts = {
        f"{part}_ms": sum(ms for step, ms in trace.timings_ms if step.startswith(part))
        for part in PARTS
    }
    return {
        "first_token_ms": timing.first_token_ms,
        "prepare_ms": timing.prepare_ms,
        "vision_ms": timing.vision_ms,
        "language_ms": timing.language_ms,
        **parts,
        "host_ms": trace.host_prefill_ms,
        "decode_ms": statistics.median(trace.decode_ms),
        "host_decode_ms": statistics.median(trace.host_decode_ms),
        "kv_bytes": float(trace.kv_bytes_total),
        "num_tokens": float(trace.prefix_length + trace.num_visual + trace.num_text),
    }


def split_runner(spelled: str) -> tuple[str, dict[str, Any]]:
    """Read `openvino:float32` as a runner and its options.

    Raises:
        InputError: A type for an engine that takes none.
    """
    name, colon, dtype = spelled.partition(":")
    if not colon:
        return name, {}
    if name != "openvino":
        raise InputError(
            f"runners | got {spelled!r} | expected a type with openvino alone | others compute in "
            "the bundle's: leave it out"
        )
    return name, {"dtype": dtype}


def run_rounds(
    contenders: Mapping[str, Contender],
    cases: Sequence[Case],
    *,
    rounds: int,
    num_steps: int,
    progress: Callable[[str, int, int], None],
) -> list[dict[str, Any]]:
    """Measure all cases in turn.

    Args:
        contenders: By the names that cases use.
        cases: What to run.
        rounds: How often, after one round that warms up and is not counted.
        num_steps: Decode steps of each.
        progress: Called before each run: its name, its number from 0, how many there are.

    Returns:
        A row for each case: median of each figure, and the half width of the middle half of
        the times that head the table, as a share.
    """
    samples: dict[Case, list[dict[str, float]]] = {case: [] for case in cases}
    for number in range(rounds + 1):
        for place, case in enumerate(cases):
            name = f"{case.contender} {case.budget or 'none'}"
            progress(name, number * len(cases) + place, (rounds + 1) * len(cases))
            sample = contenders[case.contender].sample(case, num_steps)
            if number:
                samples[case].append(sample)
    return [_row(case, taken, contenders[case.contender]) for case, taken in samples.items()]


def _row(case: Case, taken: Sequence[dict[str, float]], contender: Contender) -> dict[str, Any]:
    medians = {name: statistics.median(one[name] for one in taken) for name in taken[0]}
    spread = {
        f"{name}_spread": _spread([one[name] for one in taken])
        for name in ("language_ms", "decode_ms")
    }
    return {
        "contender": case.contender,
        "method": case.method,
        "budget": case.budget,
        **medians,
        **spread,
        "load_ms": contender.load_ms,
        "load_bytes": contender.load_bytes,
    }


def _spread(values: Sequence[float]) -> float:
    """Half the distance between the quartiles, over the median."""
    if len(values) < 2:
        return 0.0
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return (high - low) / 2 / middle if middle else 0.0
