"""The routes: OpenAI's, the probes, the metrics and the page."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse, Response, StreamingResponse
from starlette.exceptions import HTTPException
from starlette.types import Receive, Scope, Send

from sparsevlm_trt.runtime.errors import SparseVLMError
from sparsevlm_trt.runtime.extras import DISTRIBUTION
from sparsevlm_trt.runtime.packages import installed_version
from sparsevlm_trt.runtime.serving.chat_request import ChatRequest
from sparsevlm_trt.runtime.serving.desk import Desk, Visit
from sparsevlm_trt.runtime.serving.guard import Guard
from sparsevlm_trt.runtime.serving.keys import KeyRing
from sparsevlm_trt.runtime.serving.page import page_and_policy
from sparsevlm_trt.runtime.serving.refusal import RefusalError, refusal_of

__all__ = ["make_app"]

_GONE = 499  # nginx's number for a client that closed its request; nobody reads it


def make_app(desk: Desk, keys: KeyRing | None = None) -> FastAPI:
    """Make the application.

    Args:
        desk: Takes requests; its engine starts and ends with the application.
        keys: Who may ask; None: everyone.
    """

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        desk.engine.start()
        yield
        desk.is_draining = True
        await asyncio.to_thread(desk.engine.close)

    app = FastAPI(
        title="sparsevlm",
        version=installed_version(DISTRIBUTION) or "0",
        docs_url=None,  # its page loads scripts from elsewhere
        redoc_url=None,
        lifespan=lifespan,
    )
    app.add_middleware(Guard, body_bytes=desk.settings.body_bytes, keys=keys)
    _add_errors(app, desk)
    text, policy = page_and_policy()
    model = {
        "id": desk.settings.model_name,
        "object": "model",
        "created": int(time.time()),
        "owned_by": "sparsevlm",
        "sparsevlm": desk.abilities(),
    }

    @app.post("/v1/chat/completions", responses=_REFUSALS)
    async def chat(body: ChatRequest, request: Request) -> Response:
        """Answer a conversation."""
        client = request.scope.get("state", {}).get("client", "")
        visit = await desk.admit(body, client)
        if body.stream:
            await _unless_gone(request, desk, visit, desk.first(visit))
            return _Stream(desk, visit)
        answer = await _unless_gone(request, desk, visit, desk.whole(visit))
        return JSONResponse(answer)

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        """List the one model."""
        return {"object": "list", "data": [model]}

    @app.get("/v1/models/{name:path}", responses={404: {"description": "another model"}})
    async def one_model(name: str) -> dict[str, Any]:
        """Describe the model."""
        if name != desk.settings.model_name:
            raise RefusalError(404, "model_not_found", "model | got another name | see /v1/models")
        return model

    @app.get("/health", responses={503: {"description": "the engine has ended"}})
    async def health() -> JSONResponse:
        """Whether the engine lives; if not, start the server again."""
        alive = desk.engine.is_alive
        return JSONResponse({"status": "ok" if alive else "dead"}, 200 if alive else 503)

    @app.get("/ready", responses={503: {"description": "full, or closing"}})
    async def ready() -> JSONResponse:
        """Whether a request would be let in now."""
        full = desk.engine.num_waiting >= desk.settings.num_waiting
        state = "closing" if desk.is_draining else "full" if full else "ready"
        return JSONResponse({"status": state}, 200 if state == "ready" else 503)

    @app.get("/metrics")
    async def metrics() -> Response:
        """Everything counted, in Prometheus' text format."""
        desk.metrics.pressure(desk.valve.rung, desk.predicted_s())
        return Response(desk.metrics.text(), media_type="text/plain; version=0.0.4")

    @app.get("/", include_in_schema=False)
    async def page() -> HTMLResponse:
        """A page to try the model with."""
        return HTMLResponse(text, headers={"Content-Security-Policy": policy})

    return app


_REFUSALS: dict[int | str, dict[str, Any]] = {
    400: {"description": "a field, picture or budget that cannot be used; says which and why"},
    401: {"description": "no known key"},
    404: {"description": "another model"},
    413: {"description": "a body that is too large"},
    429: {"description": "the queue is full; see Retry-After"},
    503: {"description": "the server is closing"},
    504: {"description": "no answer before the deadline"},
}


class _Stream(StreamingResponse):
    """An answer as server-sent events; its visit ends with it, even if it never began."""

    def __init__(self, desk: Desk, visit: Visit) -> None:
        super().__init__(desk.events(visit), media_type="text/event-stream")
        self._desk, self._visit = desk, visit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._desk.close(self._visit)


async def _unless_gone(request: Request, desk: Desk, visit: Visit, work: Any) -> Any:
    """Await `work` unless the client leaves first: then its slot is freed at once."""
    task = asyncio.ensure_future(work)
    watch = asyncio.ensure_future(_left(request))
    try:
        await asyncio.wait({task, watch}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        desk.engine.drop(visit.ticket)
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        raise RefusalError(_GONE, "client_left", "the client closed the request")
    finally:
        watch.cancel()
        task.cancel()


async def _left(request: Request) -> None:
    """Return when the client has closed the connection."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _add_errors(app: FastAPI, desk: Desk) -> None:
    """Spell every error as OpenAI's clients read it."""

    def answer(refusal: RefusalError) -> JSONResponse:
        desk.metrics.refused(refusal.code)
        return JSONResponse(refusal.body, refusal.status, refusal.headers)

    @app.exception_handler(SparseVLMError)
    async def ours(_: Request, error: SparseVLMError) -> JSONResponse:
        return answer(refusal_of(error))

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> JSONResponse:
        return answer(RefusalError(400, "invalid_body", _told(error)))

    @app.exception_handler(HTTPException)
    async def other(_: Request, error: HTTPException) -> JSONResponse:
        code = {404: "not_found", 405: "method_not_allowed", 413: "body_too_large"}
        refusal = RefusalError(
            error.status_code, code.get(error.status_code, "invalid_body"), str(error.detail)
        )
        headers = refusal.headers | dict(error.headers or {})
        desk.metrics.refused(refusal.code)
        return JSONResponse(refusal.body, refusal.status, headers)


def _told(error: RequestValidationError) -> str:
    """Tell what is wrong with a body: places and reasons, never the content."""
    problems = []
    for problem in error.errors()[:8]:
        place = ".".join(str(part) for part in problem["loc"][1:])[:100] or "body"
        problems.append(f"{place}: {problem['msg'][:200]}")
    return f"body | {'; '.join(problems)} | expected OpenAI's chat request | see /openapi.json"
