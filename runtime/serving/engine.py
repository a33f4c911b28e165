"""The thread that answers: reads one waiting prompt, then decodes all rows by a token, and again.

A prompt is read between two decode passes, so that whoever streams waits for one prompt at most,
and whoever waits is read as soon as a slot is free.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sparsevlm_trt.runtime.answer_row import AnswerRow
from sparsevlm_trt.runtime.errors import SparseVLMError
from sparsevlm_trt.runtime.prompt import prompt_from_text
from sparsevlm_trt.runtime.serving.forecast import Forecast
from sparsevlm_trt.runtime.serving.observer import Observer
from sparsevlm_trt.runtime.serving.refusal import RefusalError, refusal_of
from sparsevlm_trt.runtime.serving.ticket import Failed, Finished, News, Piece, Started, Ticket
from sparsevlm_trt.runtime.serving.waiting import WaitingRoom
from sparsevlm_trt.runtime.session import Session
from sparsevlm_trt.runtime.slots import SlotBatch
from sparsevlm_trt.runtime.stops import StopMatcher
from sparsevlm_trt.runtime.trace import Clock

__all__ = ["Engine"]

_log = logging.getLogger(__name__)
_PATIENCE_S = 0.25  # how often an idle engine looks for requests that left or came too late
_LONGEST_RETRY_S = 60


@dataclass(slots=True)
class _Running:
    """A request that has a slot; its place in the engine's list is its row in the batch."""

    ticket: Ticket
    answer: AnswerRow
    last_token_at: float


class Engine:
    """Answers requests of many clients with one session.

    Attributes:
        session: Holds the graphs; the engine does not close it.
        forecast: Predicts the time to the first token.
    """

    def __init__(
        self,
        session: Session,
        *,
        num_slots: int,
        num_waiting: int,
        observer: Observer | None = None,
    ) -> None:
        """Take a session; nothing runs before `start`.

        Args:
            session: Holds the graphs.
            num_slots: Requests that decode together.
            num_waiting: Requests that may wait.
            observer: Is told what happens.
        """
        self.session = session
        self.forecast = Forecast()
        self._observer = observer or Observer()
        self._batch = SlotBatch(session.chain, session.bundle.manifest, num_slots)
        self._running: list[_Running] = []
        self._waiting = WaitingRoom(num_waiting)
        self._changed = threading.Condition()
        self._is_closing = False
        self._thread = threading.Thread(target=self._serve, name="sparsevlm-engine", daemon=True)

    def start(self) -> None:
        """Begin to answer."""
        self._thread.start()

    def submit(self, ticket: Ticket) -> None:
        """Let a request wait for its turn.

        Raises:
            RefusalError: 429 when the queue is full, with the time to come back after; 503 when
                closing.
        """
        with self._changed:
            if self._is_closing:
                raise RefusalError(503, "closing", "the server is closing | ask another one", 1)
            if self._waiting.is_full:
                after = math.ceil(self.forecast.first_token_s(len(self._waiting)) / 2)
                raise RefusalError(
                    429,
                    "queue_full",
                    f"queue | got a request beyond {self._waiting.capacity} that wait | "
                    "expected fewer | try again after the time of Retry-After",
                    min(max(after, 1), _LONGEST_RETRY_S),
                )
            self._waiting.add(ticket)
            self._changed.notify()

    def drop(self, ticket: Ticket) -> None:
        """Forget a request whose client left; its slot is free after the pass that runs now."""
        ticket.is_gone = True
        with self._changed:
            self._changed.notify()

    @property
    def num_waiting(self) -> int:
        """Requests that wait for a slot."""
        with self._changed:
            return len(self._waiting)

    @property
    def num_running(self) -> int:
        """Requests that have a slot."""
        return len(self._running)

    @property
    def is_alive(self) -> bool:
        """Whether the thread runs."""
        return self._thread.is_alive()

    def close(self) -> None:
        """Take no more requests, answer those there are, and end."""
        with self._changed:
            self._is_closing = True
            self._changed.notify()
        if self._thread.ident is not None:
            self._thread.join()

    def _serve(self) -> None:
        """Run until closed and done."""
        while True:
            with self._changed:
                while not (len(self._waiting) or self._running or self._is_closing):
                    self._changed.wait(_PATIENCE_S)
                if self._is_closing and not len(self._waiting) and not self._running:
                    return
                dropped = self._waiting.remove(lambda ticket: ticket.is_gone or ticket.is_late())
                ticket = self._waiting.take() if self._batch.rows < self._batch.num_slots else None
                backlog = len(self._waiting)
            for each in dropped:
                self._end(each, 0, None)
            self._drop_rows()
            if ticket is not None:
                self.forecast.taken(time.monotonic(), backlog > 0)
                self._admit(ticket)
            if self._running:
                self._decode()
            self._observer.load(backlog, self._batch)

    def _admit(self, ticket: Ticket) -> None:
        """Read a prompt and give its first token."""
        started = time.monotonic()
        try:
            answer = self._prefill(ticket)
        except Exception as error:  # one bad request must not end the others
            self._end(ticket, 0, error)
            return
        now = time.monotonic()
        self.forecast.prefilled(now - started)
        if answer is not None:
            self._running.append(_Running(ticket, answer, now))

    def _prefill(self, ticket: Ticket) -> AnswerRow | None:
        """Read a prompt; None when its answer is over with the first token."""
        session, request, clock = self.session, ticket.settle(), Clock()
        manifest, processor = session.bundle.manifest, session.processor
        prompt = prompt_from_text(
            session.chain,
            manifest,
            processor,
            clock,
            images=list(ticket.images),
            messages=ticket.messages,
        )
        # The last token made is not read again, so it needs no position.
        limit = min(request.max_new_tokens, manifest.model.max_position - prompt.layout.length + 1)
        stops = request.stop_tokens
        answer = AnswerRow(
            request.sampler(),
            processor.tokenizer.incremental() if processor.tokenizer else None,
            StopMatcher(request.stop),
            processor.stop_tokens if stops is None else stops,
            limit,
        )
        logits, state = session.chain.prefill(
            prompt.embeds,
            prompt.layout,
            request.pruning,
            0,
            clock,
            prompt.places,
            prompt.deepstack,
        )
        stages = tuple(state.prunes[0])
        kept = stages[-1].num_visual_out if stages else prompt.layout.num_visual
        vision = manifest.vision
        grid = vision.grid if vision and vision.layout == "block" else None
        news = Started(prompt.layout.length, prompt.layout.num_visual, stages, kept, grid)
        self._observer.prefilled(ticket, news, (*clock.aside, *clock.steps))
        self._tell(ticket, news)
        token, text = answer.accept(logits[0])
        self._observer.first_token(ticket, time.monotonic() - ticket.arrived)
        self._tell(ticket, Piece(text, token))
        if answer.finish_reason is not None:
            self._end(ticket, 1, None, answer.finish_reason)
            return None
        self._batch.join(state)
        return answer

    def _decode(self) -> None:
        """Make one more token of every row."""
        started = time.monotonic()
        tokens: NDArray[np.int64] = np.array(
            [row.answer.tokens[-1] for row in self._running], np.int64
        )
        try:
            logits = self._batch.decode(tokens, Clock())
        except Exception as error:  # the engine failed: nothing of this batch can go on
            for row in list(self._running):
                self._end(row.ticket, len(row.answer.tokens), error)
            self._running.clear()
            self._batch.clear()
            return
        now = time.monotonic()
        self._observer.decoded(len(self._running), now - started)
        for number in reversed(range(len(self._running))):  # leaving moves only later rows
            row = self._running[number]
            try:
                token, text = row.answer.accept(logits[number])
            except SparseVLMError as error:  # logits that nothing can be drawn from
                self._leave(number, error)
                continue
            self._observer.next_token(row.ticket, now - row.last_token_at)
            row.last_token_at = now
            self._tell(row.ticket, Piece(text, token))
            if row.answer.finish_reason is not None:
                self._leave(number, None)

    def _drop_rows(self) -> None:
        """Free the slots of requests that nobody waits for any more."""
        for number in reversed(range(len(self._running))):
            ticket = self._running[number].ticket
            if ticket.is_gone or ticket.is_late():
                self._leave(number, None)

    def _leave(self, number: int, error: Exception | None) -> None:
        """Free a slot; the last row takes its place, here as in the batch."""
        row = self._running[number]
        self._batch.leave(number)
        self._running[number] = self._running[-1]
        self._running.pop()
        self._end(row.ticket, len(row.answer.tokens), error, row.answer.finish_reason)

    def _end(
        self, ticket: Ticket, num_tokens: int, error: Exception | None, reason: str | None = None
    ) -> None:
        """Tell a request's end: its reason, its error, or that its time is over."""
        if error is not None:
            if refusal_of(error).status == 500:
                _log.error("request %d failed", ticket.number, exc_info=error)
            self._tell(ticket, Failed(error))
            self._observer.ended(ticket, "error", num_tokens)
        elif reason is not None:
            self._tell(ticket, Finished(reason))
            self._observer.ended(ticket, reason, num_tokens)
        elif ticket.is_gone:
            self._observer.ended(ticket, "gone", num_tokens)
        else:
            waited = time.monotonic() - ticket.arrived
            late = RefusalError(
                504,
                "deadline",
                f"deadline | got no end after {waited:.1f} s | expected one in time | ask for "
                "fewer tokens, or when the server is less busy",
            )
            self._tell(ticket, Failed(late))
            self._observer.ended(ticket, "deadline", num_tokens)

    def _tell(self, ticket: Ticket, news: News) -> None:
        """Deliver news; a receiver that is gone needs none."""
        if ticket.is_gone:
            return
        try:
            ticket.deliver(news)
        except RuntimeError:  # its event loop has ended
            ticket.is_gone = True
