"""What runs inside Triton's Python backend: our engine behind Triton's requests.

A request is the JSON body of `/v1/chat/completions`, a response the JSON that it would get: one
whole answer, or with `"stream": true` a chunk each (decoupled). An error is Triton's own.
"""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import ValidationError

from sparsevlm_trt.runtime.errors import SparseVLMError
from sparsevlm_trt.runtime.serving.chat_request import ChatRequest
from sparsevlm_trt.runtime.serving.desk import Desk, Visit
from sparsevlm_trt.runtime.serving.refusal import RefusalError
from sparsevlm_trt.runtime.serving.remote_pictures import fetch_picture
from sparsevlm_trt.runtime.serving.settings import Settings
from sparsevlm_trt.runtime.session import Session

__all__ = ["TritonPythonModel"]

_LOOK_S = 0.2  # how often a request is asked whether its client has cancelled it


class TritonPythonModel:
    """Triton makes one, calls `initialize`, then `execute` for requests as they come."""

    def initialize(self, args: dict[str, str]) -> None:
        """Load the bundle that lies beside `model.py`.

        Args:
            args: Triton's: the repository, the version, and the config as JSON.
        """
        # Triton puts this module in place; there is no package to install.
        import triton_python_backend_utils as triton

        self._triton = triton
        config = json.loads(args["model_config"])
        told = {key: value["string_value"] for key, value in config["parameters"].items()}
        folder = Path(args["model_repository"], args["model_version"], "bundle")
        self._session = Session.load(folder, providers=[told["provider"]])
        settings = Settings(
            args["model_name"], num_slots=int(told["slots"]), num_waiting=int(told["queue"])
        )
        self._desk = Desk(self._session, settings, fetch_picture)
        self._desk.engine.start()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()

    def execute(self, requests: Sequence[Any]) -> None:
        """Take requests in; their answers follow from our own threads."""
        for request in requests:
            # Triton takes the input's memory back when this returns.
            tensor = self._triton.get_input_tensor_by_name(request, "request")
            text = bytes(tensor.as_numpy().reshape(-1)[0])
            sender = request.get_response_sender()
            asyncio.run_coroutine_threadsafe(self._answer(text, sender), self._loop)

    def finalize(self) -> None:
        """Answer what was taken, then free the graphs."""
        self._desk.engine.close()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._session.close()

    async def _answer(self, text: bytes, sender: Any) -> None:
        """Answer one request through its sender, and close the sender whatever happens."""
        try:
            body = ChatRequest.model_validate_json(text)
            visit = await self._desk.admit(body, "")
            watch = asyncio.ensure_future(self._drop_if_cancelled(sender, visit))
            try:
                if body.stream:
                    await self._desk.first(visit)
                    async for chunk in self._desk.chunks(visit):
                        sender.send(self._response(chunk))
                else:
                    sender.send(self._response(await self._desk.whole(visit)))
            finally:
                watch.cancel()
        except ValidationError as error:
            reasons = "; ".join(
                f"{'.'.join(map(str, problem['loc']))}: {problem['msg']}"
                for problem in error.errors(include_input=False, include_url=False)[:8]
            )
            sender.send(self._failure(f"request | {reasons} | expected OpenAI's chat request"))
        except SparseVLMError as error:
            sender.send(self._failure(str(error)))
        except Exception as error:  # Triton must hear of each request's end
            sender.send(self._failure(f"{type(error).__name__}: {error}"))
        finally:
            sender.send(flags=self._triton.TRITONSERVER_RESPONSE_COMPLETE_FINAL)

    async def _drop_if_cancelled(self, sender: Any, visit: Visit) -> None:
        """Free the slot of a request that its client cancels, and end its wait."""
        while not sender.is_cancelled():
            await asyncio.sleep(_LOOK_S)
        self._desk.cancel(visit, RefusalError(499, "client_left", "the client cancelled"))

    def _response(self, value: dict[str, Any]) -> Any:
        text = np.array([json.dumps(value).encode()], np.object_)
        return self._triton.InferenceResponse([self._triton.Tensor("response", text)])

    def _failure(self, message: str) -> Any:
        return self._triton.InferenceResponse(error=self._triton.TritonError(message))
