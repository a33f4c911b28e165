"""From a prompt's embeddings to tokens: sampling, stop rules and the record, row by row."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from sparsevlm_trt.runtime.answer_row import AnswerRow, Event, Result
from sparsevlm_trt.runtime.chain import Chain
from sparsevlm_trt.runtime.decoding import ChainState, Decoding
from sparsevlm_trt.runtime.manifest import Manifest
from sparsevlm_trt.runtime.request import Request
from sparsevlm_trt.runtime.slots import SlotBatch
from sparsevlm_trt.runtime.stops import StopMatcher
from sparsevlm_trt.runtime.trace import Clock, StageTrace, Trace

if TYPE_CHECKING:  # importing tokenizers and Pillow takes time that arrays do not need
    from sparsevlm_trt.runtime.prompt import Prompt
    from sparsevlm_trt.runtime.tokenizer import Tokenizer

__all__ = ["drain", "generate", "pieces"]

Floats = NDArray[np.float32]
Stream = Callable[[str, int], None]


@dataclass(slots=True)
class _Answer:
    """One answer on its way, and what its trace will tell."""

    row: AnswerRow
    prompt: Prompt
    prefill_logits: Floats
    stages: tuple[StageTrace, ...]
    decode: list[tuple[float, float]] = field(default_factory=list)
    caches: tuple[tuple[int, int], ...] = ()  # entries and bytes of each stage, at the end


def generate(
    chain: Chain,
    manifest: Manifest,
    request: Request,
    prompts: Sequence[Prompt],
    *,
    tokenizer: Tokenizer | None,
    stop_tokens: frozenset[int],
    clock: Clock,
) -> Generator[Event, None, list[Result]]:
    """Answer prompts together.

    Each is read by itself, and then all decode together; a row that has ended leaves the others.

    Args:
        chain: Runs the graphs.
        manifest: Describes the bundle.
        request: What is asked.
        prompts: Of one row, or of several of equal layout; within the model's positions.
        tokenizer: Makes the text; None: tokens only.
        stop_tokens: Tokens that end an answer unless the request names its own.
        clock: Runs since the model's inputs were ready.

    Yields:
        Each token as it is made; rows are counted through all prompts.

    Returns:
        One result for each row.

    Raises:
        InputError: As `Chain.prefill`.
    """
    stops = stop_tokens if request.stop_tokens is None else request.stop_tokens
    answers: list[_Answer] = []
    places: list[tuple[ChainState, int]] = []  # the state that holds each answer, and its row
    num_rows = sum(len(prompt.embeds) for prompt in prompts)
    for prompt in prompts:
        # The last token made is not read again, so it needs no position.
        room = manifest.model.max_position - prompt.layout.length
        limit = min(request.max_new_tokens, room + 1)
        # Rows that decode with others move into caches that grow.
        num_new = limit - 1 if num_rows == 1 else 0
        logits, state = chain.prefill(
            prompt.embeds,
            prompt.layout,
            request.pruning,
            num_new,
            clock,
            prompt.places,
            prompt.deepstack,
        )
        for number in range(len(logits)):
            row = AnswerRow(
                request.sampler(),
                tokenizer.incremental() if tokenizer else None,
                StopMatcher(request.stop),
                stops,
                limit,
            )
            answers.append(_Answer(row, prompt, logits[number], tuple(state.prunes[number])))
            places.append((state, number))
    timings = (*clock.aside, *clock.steps)
    prefill_ms, host_prefill_ms = clock.lap()
    running = _Running(chain, manifest, answers, places)
    del places  # a batch has moved its caches
    while True:
        clock.restart()
        events = [
            Event(number, *answers[number].row.accept(running.logits[place]))
            for place, number in enumerate(running.numbers)
        ]
        running.drop_ended()
        picked_ms, _ = clock.lap()
        yield from events
        if not running.numbers:
            break
        clock.restart()  # the time that the caller took with the events is not ours
        running.decode(clock)
        wall_ms, host_ms = clock.lap()
        for place, number in enumerate(running.numbers):
            answers[number].decode.append((picked_ms + wall_ms, picked_ms + host_ms))
            if request.keep_logits:
                answers[number].row.logits.append(running.logits[place].copy())
    phase = (timings, prefill_ms, host_prefill_ms)
    return [_result(answer, request, manifest, *phase) for answer in answers]


class _Running:
    """The answers that go on: one in the caches that its prompt filled, several in slots.

    Attributes:
        numbers: Which answer each row of the decoding is.
        logits: Of those rows, `[B, vocab]`.
    """

    def __init__(
        self,
        chain: Chain,
        manifest: Manifest,
        answers: Sequence[_Answer],
        places: Sequence[tuple[ChainState, int]],
    ) -> None:
        self.numbers = list(range(len(answers)))
        self.logits = np.stack([answer.prefill_logits for answer in answers])
        self._chain, self._answers = chain, answers
        self._slots: SlotBatch | None = None
        self._decoding: Decoding = places[0][0]
        if len(answers) > 1:
            self._decoding = self._slots = SlotBatch(chain, manifest, len(answers))
            self._slots.move(places)

    def decode(self, clock: Clock) -> None:
        """Read the last token of each answer."""
        rows = [self._answers[number].row for number in self.numbers]
        tokens = np.array([row.tokens[-1] for row in rows], np.int64)
        self.logits = self._chain.decode(tokens, self._decoding, clock)

    def drop_ended(self) -> None:
        """Let go of the answers that have ended."""
        for place in reversed(range(len(self.numbers))):  # leaving moves only later rows
            answer = self._answers[self.numbers[place]]
            if answer.row.finish_reason is None:
                continue
            caches = self._decoding.caches
            lengths = [int(cache.lengths[place]) for cache in caches]
            sizes = [cache.entry_bytes for cache in caches]
            answer.caches = tuple((n, n * size) for n, size in zip(lengths, sizes, strict=True))
            self.numbers[place] = self.numbers[-1]
            self.numbers.pop()
            if self._slots is not None:
                self._slots.leave(place)


def _result(
    answer: _Answer,
    request: Request,
    manifest: Manifest,
    timings: tuple[tuple[str, float], ...],
    prefill_ms: float,
    host_prefill_ms: float,
) -> Result:
    """Make the record of an answer."""
    row, layout, vision = answer.row, answer.prompt.layout, manifest.vision
    return Result(
        tokens=row.tokens,
        text="".join(row.pieces) if row.decoder else None,
        prefill_logits=answer.prefill_logits,
        step_logits=np.array(row.logits, np.float32).reshape(-1, len(answer.prefill_logits)),
        finish_reason=row.finish_reason or "length",
        trace=Trace(
            method=request.pruning.method.name,
            prefix_length=layout.prefix,
            num_visual=layout.num_visual,
            num_text=layout.num_text,
            grid=vision.grid if vision and vision.layout == "block" else None,
            stages=answer.stages,
            cache_lengths=tuple(length for length, _ in answer.caches),
            kv_bytes=tuple(size_bytes for _, size_bytes in answer.caches),
            timings_ms=timings,
            prefill_ms=prefill_ms,
            decode_ms=tuple(wall for wall, _ in answer.decode),
            host_prefill_ms=host_prefill_ms,
            host_decode_ms=tuple(host for _, host in answer.decode),
            image_config=answer.prompt.image_config,
            words=layout.words,
        ),
    )


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
