"""From a prompt's embeddings to tokens: sampling, stop rules and the record, row by row."""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from sparsevlm_trt.runtime.boundary import Layout
from sparsevlm_trt.runtime.chain import Chain
from sparsevlm_trt.runtime.manifest import Manifest
from sparsevlm_trt.runtime.request import Request
from sparsevlm_trt.runtime.runner import Tensor
from sparsevlm_trt.runtime.sampling import Sampler
from sparsevlm_trt.runtime.stops import StopMatcher
from sparsevlm_trt.runtime.trace import Clock, Trace

if TYPE_CHECKING:  # importing tokenizers and Pillow takes time that arrays do not need
    from sparsevlm_trt.runtime.image_config import ImageConfig
    from sparsevlm_trt.runtime.tokenizer import IncrementalDecoder, Tokenizer

__all__ = ["AnswerRow", "Event", "Result", "drain", "generate", "pieces"]

Floats = NDArray[np.float32]
FinishReason = Literal["stop", "length"]
Stream = Callable[[str, int], None]


@dataclass(frozen=True, slots=True)
class Event:
    """One token of one row, and the text that became certain with it, maybe none."""

    row: int
    token: int
    piece: str


@dataclass(frozen=True, slots=True, eq=False)
class Result:
    """One answer.

    Attributes:
        tokens: All tokens made, the one that ended the answer among them.
        text: Their text without special tokens, up to the stop text; None where the bundle has no
            tokenizer.
        prefill_logits: Logits of the prompt's last position, `[vocab]` float32.
        step_logits: Logits of each decode step, `[steps, vocab]` float32; no row without
            `keep_logits`.
        finish_reason: "stop" for a stop token or text, "length" for the limit of tokens or
            positions.
        trace: What was dropped, and how long everything took.
    """

    tokens: list[int]
    text: str | None
    prefill_logits: Floats
    step_logits: Floats
    finish_reason: FinishReason
    trace: Trace


@dataclass(slots=True)
class AnswerRow:
    """One row of a batch on its way."""

    sampler: Sampler
    decoder: IncrementalDecoder | None
    matcher: StopMatcher
    stop_tokens: frozenset[int]
    limit: int
    tokens: list[int] = field(default_factory=list)
    pieces: list[str] = field(default_factory=list)
    logits: list[Floats] = field(default_factory=list)
    finish_reason: FinishReason | None = None

    def accept(self, logits: Floats) -> tuple[int, str]:
        """Pick the next token, and return it with the text that became certain."""
        token = self.sampler.pick(logits)
        self.tokens.append(token)
        piece = ""
        if token in self.stop_tokens:
            self.finish_reason = "stop"
        elif self.decoder is not None:
            piece = self.matcher.feed(self.decoder.feed(token))
        if self.finish_reason is None and len(self.tokens) >= self.limit:
            self.finish_reason = "length"
        if self.finish_reason is not None and self.decoder is not None:
            piece += self.matcher.feed(self.decoder.finish()) + self.matcher.finish()
        if self.matcher.found is not None:
            self.finish_reason = "stop"
        self.pieces.append(piece)
        return token, piece


def generate(
    chain: Chain,
    manifest: Manifest,
    request: Request,
    embeds: Tensor,
    layout: Layout,
    *,
    image_config: ImageConfig | None,
    tokenizer: Tokenizer | None,
    stop_tokens: frozenset[int],
    clock: Clock,
) -> Generator[Event, None, list[Result]]:
    """Answer a prompt, or a batch of equal layout.

    Rows that have ended go along with the others, unread.

    Args:
        chain: Runs the graphs.
        manifest: Describes the bundle.
        request: What is asked.
        embeds: `[B, S, N]` of the model's dtype.
        layout: Where the visual block lies, within the model's positions.
        image_config: How the images became pixels, for the record; None without images.
        tokenizer: Makes the text; None: tokens only.
        stop_tokens: Tokens that end an answer unless the request names its own.
        clock: Runs since the model's inputs were ready.

    Yields:
        Each token as it is made.

    Returns:
        One result for each row.

    Raises:
        InputError: As `Chain.prefill`.
    """
    # The last token made is not read again, so it needs no position.
    limit = min(request.max_new_tokens, manifest.model.max_position - layout.length + 1)
    stops = stop_tokens if request.stop_tokens is None else request.stop_tokens
    rows = [
        AnswerRow(
            request.sampler(),
            tokenizer.incremental() if tokenizer else None,
            StopMatcher(request.stop),
            stops,
            limit,
        )
        for _ in range(len(embeds))
    ]
    prefill_logits, state = chain.prefill(embeds, layout, request.pruning, limit - 1, clock)
    timings = (*clock.aside, *clock.steps)
    prefill_ms, host_prefill_ms = clock.lap()
    decode: list[tuple[float, float]] = []
    logits = prefill_logits
    while True:
        clock.restart()
        events = [
            Event(number, *row.accept(logits[number]))
            for number, row in enumerate(rows)
            if row.finish_reason is None
        ]
        picked_ms, _ = clock.lap()
        yield from events
        if all(row.finish_reason for row in rows):
            break
        clock.restart()  # the time that the caller took with the events is not ours
        tokens = np.array([row.tokens[-1] for row in rows], np.int64)
        logits = chain.decode(tokens, state, clock)
        wall_ms, host_ms = clock.lap()
        decode.append((picked_ms + wall_ms, picked_ms + host_ms))
        if request.keep_logits:
            for number, row in enumerate(rows):
                if row.finish_reason is None:
                    row.logits.append(logits[number].copy())
    caches, vision = state.caches, manifest.vision
    return [
        Result(
            tokens=row.tokens,
            text="".join(row.pieces) if row.decoder else None,
            prefill_logits=prefill_logits[number],
            step_logits=np.array(row.logits, np.float32).reshape(-1, prefill_logits.shape[1]),
            finish_reason=row.finish_reason or "length",
            trace=Trace(
                method=request.pruning.method.name,
                prefix_length=layout.prefix,
                num_visual=layout.num_visual,
                num_text=layout.num_text,
                grid=vision.grid if vision and vision.layout == "block" else None,
                stages=tuple(state.prunes[number]),
                cache_lengths=tuple(cache.length for cache in caches),
                kv_bytes=tuple(cache.nbytes for cache in caches),
                timings_ms=timings,
                prefill_ms=prefill_ms,
                decode_ms=tuple(wall for wall, _ in decode),
                host_prefill_ms=host_prefill_ms,
                host_decode_ms=tuple(host for _, host in decode),
                image_config=image_config,
            ),
        )
        for number, row in enumerate(rows)
    ]


def pieces(
    events: Generator[Event, None, list[Result]], stream: Stream | None
) -> Generator[str, None, list[Result]]:
    """Run to the end, yielding each piece of text that is not empty.

    Args:
        events: What `generate` gives.
        stream: Called with each piece, empty ones too, and its token; or None.
    """
    while True:
        try:
            event = next(events)
        except StopIteration as done:
            results: list[Result] = done.value
            return results
        if stream is not None:
            stream(event.piece, event.token)
        if event.piece:
            yield event.piece


def drain(events: Generator[Event, None, list[Result]], stream: Stream | None) -> list[Result]:
    """Run to the end; see `pieces`."""
    running = pieces(events, stream)
    try:
        while True:
            next(running)
    except StopIteration as done:
        results: list[Result] = done.value
        return results
