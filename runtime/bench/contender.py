"""Those who take part in a benchmark, and our own: a bundle on an engine."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from sparsevlm_trt.runtime.bench.case import Case, Shape
from sparsevlm_trt.runtime.bench.machine import grown_bytes, resident_bytes
from sparsevlm_trt.runtime.errors import InputError
from sparsevlm_trt.runtime.session import Session
from sparsevlm_trt.runtime.timing import Timing
from sparsevlm_trt.runtime.trace import Trace

__all__ = ["GRAPH_PREFIX", "PARTS", "Contender", "OursContender", "computed_dtype", "split_runner"]

# How the steps of each part begin.
PARTS = {"embed": "embed", "raters": "rater", "stage": "stage", "prune": "prune", "head": "head"}
GRAPH_PREFIX = "graph_ms/"  # of the figures that a sample gives for each graph


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
    """A bundle on one engine.

    Attributes:
        session: Runs it.
        runner: How the engine is named on the command line.
    """

    def __init__(
        self,
        bundle: Path,
        runner: str,
        options: Mapping[str, Any],
        image: Path | None,
        question: str,
    ) -> None:
        """Open a session, without hashing the bundle."""
        name, own = split_runner(runner)
        self.runner, self._options = runner, {**own, **options}
        before, started = resident_bytes(), time.perf_counter()
        self.session = Session.load(
            bundle, name, verify=False, image_cache_bytes=0, **self._options
        )
        self.load_ms = (time.perf_counter() - started) * 1e3
        self.load_bytes = grown_bytes(before)
        self._image, self._question = image, question

    def second_session_bytes(self) -> int | None:
        """Open the bundle once more in this process: memory that it adds; None where unknown."""
        before = resident_bytes()
        path, name = self.session.bundle.path, self.session.runner.name
        with Session.load(path, name, verify=False, **self._options):
            return grown_bytes(before)

    @property
    def dtype(self) -> str:
        """The type that its products are computed in."""
        return computed_dtype(self.session)

    def sample(self, case: Case, num_steps: int) -> dict[str, float]:
        """Answer once; see `Contender`."""
        options: dict[str, Any] = {
            "method": case.method,
            "budget": None if case.method == "none" else case.budget,
            "max_new_tokens": num_steps + 1,
            "stop_tokens": (),
            "keep_logits": False,
        }
        if case.shape is not None:
            embeds = _noise(case.shape, self.session.bundle.manifest.model.hidden_size)
            results = self.session.generate_from_embeds(
                embeds, prefix_length=0, num_visual=case.shape.num_visual, **options
            )
            rows = results if isinstance(results, list) else [results]
            return _sample_of(rows[0].trace, len(rows))
        if self._image is None:
            raise InputError("bench | got no picture | expected --image | name one")
        content = [{"type": "image"}, {"type": "text", "text": self._question}]
        result = self.session.generate(
            images=[self._image], messages=[{"role": "user", "content": content}], **options
        )
        return _sample_of(result.trace, 1)


def computed_dtype(session: Session) -> str:
    """The type that a session's products are computed in: the bundle's, or the engine's choice."""
    precision = getattr(session.runner, "precision", None)
    by_precision = {"f32": "float32", "bf16": "bfloat16", "f16": "float16"}
    return by_precision.get(precision or "", session.bundle.manifest.model.dtype)


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


def _noise(shape: Shape, hidden_size: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Embeddings of a prompt that means nothing: times do not depend on values."""
    size = (shape.batch, shape.num_visual + shape.num_text, hidden_size)
    return np.random.default_rng(0).standard_normal(size, np.float32) * np.float32(0.1)


def _sample_of(trace: Trace, batch: int) -> dict[str, float]:
    """Split the time of an answer, or of rows answered together, into parts."""
    timing = Timing.of(trace)
    decode_ms = statistics.median(trace.decode_ms)
    parts = {
        f"{part}_ms": sum(ms for step, ms in trace.timings_ms if step.startswith(start))
        for part, start in PARTS.items()
    }
    graphs: dict[str, float] = {}
    for step, ms in trace.timings_ms:
        graphs[GRAPH_PREFIX + step] = graphs.get(GRAPH_PREFIX + step, 0.0) + ms
    return {
        "first_token_ms": timing.first_token_ms,
        "prepare_ms": timing.prepare_ms,
        "vision_ms": timing.vision_ms,
        "language_ms": timing.language_ms,
        **parts,
        **graphs,
        "host_ms": trace.host_prefill_ms,
        "decode_ms": decode_ms,
        "tokens_per_s": batch * 1e3 / decode_ms,
        "host_decode_ms": statistics.median(trace.host_decode_ms),
        "kv_bytes": float(trace.kv_bytes_total * batch),
        "num_tokens": float(trace.prefix_length + trace.num_visual + trace.num_text),
        "num_visual": float(trace.num_visual),
    }
