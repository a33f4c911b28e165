"""The desk between HTTP and the engine: a checked body becomes a ticket, news become a reply."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from PIL import Image

from sparsevlm_trt.runtime.request import Request
from sparsevlm_trt.runtime.serving.chat_request import ChatRequest, PruningFields
from sparsevlm_trt.runtime.serving.conversation import options_of, read_conversation
from sparsevlm_trt.runtime.serving.engine import Engine
from sparsevlm_trt.runtime.serving.metrics import Metrics
from sparsevlm_trt.runtime.serving.pictures import Fetch, data_url
from sparsevlm_trt.runtime.serving.pressure import PressureValve, pressure_ladder
from sparsevlm_trt.runtime.serving.refusal import RefusalError, refusal_of
from sparsevlm_trt.runtime.serving.replies import SSE_END, Reply, sse
from sparsevlm_trt.runtime.serving.request_log import log_request
from sparsevlm_trt.runtime.serving.settings import Settings
from sparsevlm_trt.runtime.serving.ticket import Failed, Finished, News, Piece, Started, Ticket
from sparsevlm_trt.runtime.session import Session

__all__ = ["Desk", "Visit"]


@dataclass(slots=True, eq=False)
class Visit:
    """One accepted request: its ticket, its news as they come, its reply as it grows."""

    ticket: Ticket
    news: asyncio.Queue[News]
    reply: Reply
    body: ChatRequest
    first_token_s: float | None = field(default=None, init=False)
    is_closed: bool = field(default=False, init=False)


class Desk:
    """Takes requests in and gives replies out.

    Attributes:
        engine: Answers.
        metrics: Counts.
        settings: Limits and defaults.
        is_draining: Set when the server takes no new requests any more.
    """

    def __init__(self, session: Session, settings: Settings, fetch: Fetch) -> None:
        """Take a session; nothing runs before `engine.start`."""
        manifest = session.bundle.manifest
        self.settings = settings
        self.metrics = Metrics(manifest.stages)
        self.engine = Engine(
            session,
            num_slots=settings.num_slots,
            num_waiting=settings.num_waiting,
            observer=self.metrics,
        )
        ladder = pressure_ladder(manifest, settings.floor, whole=settings.whole)
        self.valve = PressureValve(ladder, settings.target_ttft_s)
        self.is_draining = False
        self._manifest = manifest
        self._fetch = fetch
        self._numbers = itertools.count(1)

    def abilities(self) -> dict[str, Any]:
        """Say what a request may ask for: the bundle's methods, and budgets that it follows."""
        plan = self._manifest.plan
        return {
            "method": plan.method,
            "methods": list(plan.methods),
            "budget": plan.budget,
            "budgets": [rung.budget for rung in pressure_ladder(self._manifest, 1)[1:]],
            "schedule": ",".join(
                f"{layer}:{kept}" for layer, kept in sorted(plan.schedule.items())
            ),
        }

    async def admit(self, body: ChatRequest, client: str) -> Visit:
        """Check a request and let it wait for its turn.

        Raises:
            RefusalError: It is refused.
            SparseVLMError: It cannot be answered as asked.
        """
        if body.model != self.settings.model_name:
            raise RefusalError(
                404,
                "model_not_found",
                f"model | got {body.model[:80]!r} | expected {self.settings.model_name!r} | "
                "see /v1/models",
            )
        if self.is_draining:
            raise RefusalError(503, "closing", "the server is closing | ask another one", 1)
        loop = asyncio.get_running_loop()
        arrived = time.monotonic()
        rung = self.valve.rung
        request = options_of(body, self._manifest, self.settings, rung.options)
        read = await asyncio.to_thread(read_conversation, body, self.settings.images, self._fetch)
        ours = body.sparsevlm or PruningFields()
        reply = Reply(
            self.settings.model_name,
            request,
            ours.budget if ours.names_plan else rung.budget,
            "request" if ours.names_plan else "bundle",
            ours.patches,
        )
        if ours.seen:
            reply.seen = await asyncio.to_thread(self._seen, read.images)
        news: asyncio.Queue[News] = asyncio.Queue()

        def deliver(item: News) -> None:
            loop.call_soon_threadsafe(news.put_nowait, item)

        def settle() -> Request:
            if not ours.names_plan:
                self._settle(body, reply)
            return reply.request

        ticket = Ticket(
            number=next(self._numbers),
            client=f"{client}/{body.user or ''}",
            messages=read.messages,
            images=read.images,
            settle=settle,
            deliver=deliver,
            deadline=arrived + self.settings.timeout_s,
            arrived=arrived,
        )
        self.engine.submit(ticket)
        return Visit(ticket, news, reply, body)

    async def whole(self, visit: Visit) -> dict[str, Any]:
        """Wait for a whole answer.

        Raises:
            RefusalError: There is none.
        """
        try:
            while visit.reply.reason is None:
                self._note(visit, await visit.news.get())
            return visit.reply.whole()
        finally:
            self.close(visit)

    async def first(self, visit: Visit) -> None:
        """Wait until the prompt has been read: from then on the answer can stream.

        Raises:
            RefusalError: It cannot be.
        """
        try:
            self._note(visit, await visit.news.get())
        except BaseException:
            self.close(visit)
            raise

    async def events(self, visit: Visit) -> AsyncIterator[bytes]:
        """Stream an answer whose prompt has been read, as server-sent events."""
        try:
            async for chunk in self.chunks(visit):
                yield sse(chunk)
        except RefusalError as refusal:  # the status is sent: tell it in the stream
            yield sse(refusal.body)
            return
        yield SSE_END

    async def chunks(self, visit: Visit) -> AsyncIterator[dict[str, Any]]:
        """Stream an answer whose prompt has been read, as OpenAI's chunks.

        Raises:
            RefusalError: It ends before it is whole.
        """
        reply = visit.reply
        try:
            yield reply.opening()
            while reply.reason is None:
                text = self._note(visit, await visit.news.get())
                if text:
                    yield reply.piece(text)
            yield reply.closing()
            options = visit.body.stream_options
            if options is not None and options.include_usage:
                yield reply.usage_chunk()
        finally:
            self.close(visit)

    def cancel(self, visit: Visit, reason: RefusalError) -> None:
        """Drop a request whose client has left, and end whoever awaits its news."""
        self.engine.drop(visit.ticket)
        visit.news.put_nowait(Failed(reason))

    def predicted_s(self) -> float:
        """Predict the time to the first token of a request that arrives now, seconds."""
        return self.engine.forecast.first_token_s(self.engine.num_waiting)

    def _seen(self, images: Sequence[Image.Image]) -> list[str]:
        """Draw the pictures as the model sees them, as data: URLs."""
        if not images or self._manifest.vision is None:
            return []
        shown = self.engine.session.processor.images.seen(images)
        return [data_url(picture) for picture in shown]

    def _settle(self, body: ChatRequest, reply: Reply) -> None:
        """Choose the budget of a request that names none; on the engine's thread."""
        predicted = self.predicted_s()
        rung = self.valve.adjust(predicted)
        self.metrics.pressure(rung, predicted)
        reply.request = options_of(body, self._manifest, self.settings, rung.options)
        reply.budget = rung.budget
        reply.source = "pressure" if self.valve.is_lowered else "bundle"

    def _note(self, visit: Visit, news: News) -> str:
        """Take in one piece of news; returns its text."""
        reply = visit.reply
        if isinstance(news, Started):
            reply.started = news
        elif isinstance(news, Piece):
            if visit.first_token_s is None:
                visit.first_token_s = time.monotonic() - visit.ticket.arrived
            reply.add(news.text)
            return news.text
        elif isinstance(news, Finished):
            reply.reason = news.reason
        elif isinstance(news, Failed):
            raise refusal_of(news.error) from news.error
        return ""

    def close(self, visit: Visit) -> None:
        """Let go of a visit: whatever still runs for it is dropped; a second call does nothing."""
        if visit.is_closed:
            return
        visit.is_closed = True
        reply, ticket = visit.reply, visit.ticket
        if reply.reason is None:
            self.engine.drop(ticket)
        started = reply.started
        fields: dict[str, Any] = {
            "request": reply.identity,
            "client": ticket.client,
            "outcome": reply.reason or "none",
            "budget": reply.budget,
            "budget_source": reply.source,
            "num_images": len(ticket.images),
            "prompt_tokens": started.num_prompt if started else None,
            "visual_tokens_in": started.num_visual if started else None,
            "visual_tokens_kept": started.kept if started else None,
            "completion_tokens": reply.num_tokens,
            "first_token_s": visit.first_token_s,
            "elapsed_s": time.monotonic() - ticket.arrived,
        }
        if self.settings.log_content:
            fields |= {"messages": ticket.messages, "answer": "".join(reply.pieces)}
        log_request(fields)
