"""The doorkeeper: bodies that are too large and keys that are not known go no further."""

from __future__ import annotations

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from sparsevlm_trt.runtime.serving.keys import KeyRing
from sparsevlm_trt.runtime.serving.refusal import RefusalError

__all__ = ["Guard"]

_OPEN = ("/health", "/ready", "/")  # what probes and the page itself need; they tell no content


class Guard:
    """Wraps an ASGI application.

    A request that passes carries the name of its key as `scope["state"]["client"]`.
    """

    def __init__(self, app: ASGIApp, *, body_bytes: int, keys: KeyRing | None) -> None:
        """Take what is allowed.

        Args:
            app: What is guarded.
            body_bytes: Of a body, at most.
            keys: Who may ask; None: everyone.
        """
        self._app, self._body_bytes, self._keys = app, body_bytes, keys

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request pass, or answer it here."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        try:
            self._check_key(scope, headers)
            self._check_length(headers)
        except RefusalError as refusal:
            await _answer(refusal, scope, receive, send)
            return
        size = 0

        async def counted() -> Message:
            nonlocal size
            message = await receive()
            size += len(message.get("body", b""))
            if size > self._body_bytes:  # the application makes its answer of this kind only
                refusal = self._too_large()
                raise HTTPException(refusal.status, str(refusal))
            return message

        await self._app(scope, counted, send)

    def _check_key(self, scope: Scope, headers: Headers) -> None:
        """Find out whose key it is."""
        if self._keys is None or scope["path"] in _OPEN:
            return
        kind, _, key = headers.get("authorization", "").partition(" ")
        name = self._keys.name_of(key.strip()) if kind.lower() == "bearer" else None
        if name is None:
            raise RefusalError(
                401,
                "invalid_api_key",
                "authorization | got no key that is known | expected Authorization: Bearer KEY | "
                "ask the operator for a key",
            )
        scope.setdefault("state", {})["client"] = name

    def _check_length(self, headers: Headers) -> None:
        """Believe a claim to be too large."""
        claimed = headers.get("content-length", "0")
        if not claimed.isdecimal() or len(claimed) > 18 or int(claimed) > self._body_bytes:
            raise self._too_large()

    def _too_large(self) -> RefusalError:
        return RefusalError(
            413,
            "body_too_large",
            f"body | got more than {self._body_bytes} bytes | expected less | send smaller "
            "pictures",
        )


async def _answer(refusal: RefusalError, scope: Scope, receive: Receive, send: Send) -> None:
    """Send an error, and close: the body was not read."""
    headers = refusal.headers | {"Connection": "close"}
    await JSONResponse(refusal.body, refusal.status, headers)(scope, receive, send)
