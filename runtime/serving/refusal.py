"""Why a request gets no answer, as OpenAI's clients expect to read it."""

from __future__ import annotations

from typing import Any

from sparsevlm_trt.runtime.errors import InputError, PlanError, SparseVLMError

__all__ = ["RefusalError", "refusal_of"]


class RefusalError(SparseVLMError):
    """A request that is refused, or ends without an answer.

    Attributes:
        status: HTTP status.
        code: A word that programs can match.
        retry_after_s: Seconds after which trying again makes sense; None: it does not.
    """

    def __init__(
        self, status: int, code: str, message: str, retry_after_s: int | None = None
    ) -> None:
        """Take what is told to the client."""
        super().__init__(message)
        self.status, self.code, self.retry_after_s = status, code, retry_after_s

    @property
    def headers(self) -> dict[str, str]:
        """HTTP headers that go with it."""
        headers = {} if self.retry_after_s is None else {"Retry-After": str(self.retry_after_s)}
        return headers | ({"WWW-Authenticate": "Bearer"} if self.status == 401 else {})

    @property
    def body(self) -> dict[str, Any]:
        """OpenAI's error object."""
        kind = "invalid_request_error" if self.status < 429 else "server_error"
        kind = "rate_limit_error" if self.status == 429 else kind
        message = str(self)
        return {"error": {"message": message, "type": kind, "param": None, "code": self.code}}


def refusal_of(error: Exception) -> RefusalError:
    """Tell an error of the runtime to a client; what is not the client's fault tells nothing."""
    if isinstance(error, RefusalError):
        return error
    if isinstance(error, PlanError):
        return RefusalError(400, "impossible_budget", str(error))
    if isinstance(error, InputError):
        return RefusalError(400, "invalid_input", str(error))
    return RefusalError(500, "internal_error", "the server failed; its log says why")
