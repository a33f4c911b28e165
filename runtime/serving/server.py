"""The process around the application: one listener, and an end that loses no answer."""

from __future__ import annotations

import signal
import socket
from pathlib import Path
from types import FrameType

import uvicorn

from sparsevlm_trt.runtime.errors import InputError
from sparsevlm_trt.runtime.serving.app import make_app
from sparsevlm_trt.runtime.serving.desk import Desk
from sparsevlm_trt.runtime.serving.keys import KeyRing
from sparsevlm_trt.runtime.serving.pictures import Fetch
from sparsevlm_trt.runtime.serving.remote_pictures import fetch_picture
from sparsevlm_trt.runtime.serving.settings import Settings
from sparsevlm_trt.runtime.session import Session

__all__ = ["Server", "listen", "serve_session"]


class Server(uvicorn.Server):
    """A uvicorn server that says at the first signal that it takes no new requests."""

    def __init__(self, config: uvicorn.Config, desk: Desk) -> None:
        """Take the desk to close."""
        super().__init__(config)
        self._desk = desk

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Stop taking requests; those that were taken are answered first."""
        self._desk.is_draining = True
        super().handle_exit(sig, frame)


def listen(host: str, port: int) -> socket.socket:
    """Open the listener, so that a taken port is told before the bundle loads.

    Args:
        host: Address to listen on.
        port: Its port; 0 takes a free one.

    Raises:
        InputError: The address cannot be listened on.
    """
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listener = socket.create_server((host, port), family=family)
    except OSError as error:
        raise InputError(
            f"listen {host}:{port} | got {error.strerror or error} | expected a free port of this "
            "machine | choose another with --port"
        ) from error
    listener.set_inheritable(True)
    return listener


def serve_session(
    session: Session,
    settings: Settings,
    listener: socket.socket,
    *,
    keys: Path | None = None,
    drain_s: int = 30,
    fetch: Fetch = fetch_picture,
) -> None:
    """Serve until a signal, then finish what was taken.

    Args:
        session: Answers; not closed.
        settings: Limits and defaults.
        listener: From `listen`.
        keys: File of hashed API keys; None: everyone may ask.
        drain_s: Seconds that running requests get after the signal.
        fetch: Gets pictures of allowed hosts.

    Raises:
        InputError: The key file cannot be used.
    """
    ring = KeyRing.open(keys) if keys is not None else None
    desk = Desk(session, settings, fetch)
    config = uvicorn.Config(
        make_app(desk, ring),
        log_config=None,
        access_log=False,
        timeout_graceful_shutdown=drain_s,
        timeout_keep_alive=15,
        # Bodies are read before they are queued: what is read at once must be bounded too.
        limit_concurrency=2 * (settings.num_slots + settings.num_waiting) + 64,
        h11_max_incomplete_event_size=64_000,
        server_header=False,
        ws="none",
    )
    # uvicorn hands the signal on when it is done; this end is a good one.
    before = signal.signal(signal.SIGTERM, lambda *_: None)
    try:
        Server(config, desk).run(sockets=[listener])
    finally:
        signal.signal(signal.SIGTERM, before)
