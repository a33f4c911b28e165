"""A served tiny bundle, on a free port of the loopback, for all tests of this folder."""

from __future__ import annotations

import base64
import io
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import httpx
import numpy as np
import pytest
import uvicorn
from PIL import Image

from sparsevlm_trt.runtime import Session
from sparsevlm_trt.runtime.serving.app import make_app
from sparsevlm_trt.runtime.serving.desk import Desk
from sparsevlm_trt.runtime.serving.keys import KeyRing
from sparsevlm_trt.runtime.serving.pictures import Fetch
from sparsevlm_trt.runtime.serving.remote_pictures import fetch_picture
from sparsevlm_trt.runtime.serving.server import Server, listen
from sparsevlm_trt.runtime.serving.settings import Settings

QUESTION = "what is it"
SETTINGS = Settings("tiny", default_new_tokens=6, max_new_tokens=400, timeout_s=30)


def noise_picture(seed: int = 0) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(90, 255, (80, 90, 3), np.uint8)
    return Image.fromarray(pixels)


def data_url(picture: Image.Image) -> str:
    file = io.BytesIO()
    picture.save(file, "PNG")
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"


def ask(seed: int = 0, question: str = QUESTION, num_images: int = 1) -> list[dict[str, Any]]:
    parts = [
        {"type": "image_url", "image_url": {"url": data_url(noise_picture(seed + n))}}
        for n in range(num_images)
    ]
    return [{"role": "user", "content": [*parts, {"type": "text", "text": question}]}]


@dataclass
class Live:
    """A server that runs in a thread."""

    url: str
    desk: Desk

    def post(self, timeout: float = 30, **body: Any) -> httpx.Response:
        body = {"model": self.desk.settings.model_name, **body}
        return httpx.post(f"{self.url}/v1/chat/completions", json=body, timeout=timeout)

    def get(self, path: str, **options: Any) -> httpx.Response:
        return httpx.get(f"{self.url}{path}", timeout=10, **options)


def no_fetch(url: str, limits: object) -> bytes:
    raise AssertionError(f"a connection to {url}")


@contextmanager
def live(
    session: Session, settings: Settings, keys: KeyRing | None, fetch: Fetch
) -> Iterator[Live]:
    desk = Desk(session, settings, fetch)
    config = uvicorn.Config(
        make_app(desk, keys), log_config=None, timeout_graceful_shutdown=10, access_log=False
    )
    server = Server(config, desk)
    with listen("127.0.0.1", 0) as listener:
        port = listener.getsockname()[1]
        thread = threading.Thread(target=server.run, args=([listener],), daemon=True)
        thread.start()
        wait_until(lambda: server.started)
        yield Live(f"http://127.0.0.1:{port}", desk)
        server.should_exit = True
        thread.join(20)
        assert not thread.is_alive()


def wait_until(done: Callable[[], bool], seconds: float = 10) -> None:
    end = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.01)


@pytest.fixture(scope="session")
def tiny_session(bundle_of) -> Iterator[Session]:
    with Session.load(bundle_of()) as session:
        yield session


@pytest.fixture(scope="session")
def server(tiny_session) -> Iterator[Live]:
    """One server for all tests that change nothing about it."""
    with live(tiny_session, SETTINGS, None, fetch_picture) as running:
        yield running


@pytest.fixture
def serve(tiny_session):
    """Starts a server with other settings."""

    def start(keys: KeyRing | None = None, fetch: Fetch = no_fetch, **changes: Any):
        return live(tiny_session, replace(SETTINGS, **changes), keys, fetch)

    return start


@pytest.fixture(scope="session")
def picture_file(tmp_path_factory):
    """The picture of `messages()`, as a file."""
    path = tmp_path_factory.mktemp("pictures") / "noise.png"
    noise_picture().save(path)
    return path


@pytest.fixture(scope="session")
def messages():
    """`ask(seed, question, num_images)`: a conversation with pictures as data: URLs."""
    return ask


@pytest.fixture(scope="session")
def alone(tiny_session):
    """The answer of one session without any server, to the same pictures and question."""

    def answer(picture: int = 0, question: str = QUESTION, num_images: int = 1, **options: Any):
        parts = [{"type": "image"}] * num_images + [{"type": "text", "text": question}]
        return tiny_session.generate(
            images=[noise_picture(picture + n) for n in range(num_images)],
            messages=[{"role": "user", "content": parts}],
            **{"max_new_tokens": 6, **options},
        )

    return answer
