"""Sessions of ONNX Runtime that the runners of one process share, and the weights with them."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from pathlib import Path
from typing import Any

from sparsevlm_trt.runtime.sharing import Shared

__all__ = ["shared_session"]

# A session can run calls of several threads at once. It goes when the last runner lets go of it.
_sessions: Shared[Any] = Shared()


def shared_session(path: Path, settings: Hashable, open_session: Callable[[], Any]) -> Any:
    """Return the session of a graph file; open it if no runner holds one.

    ONNX Runtime packs the weights of a session anew, so a second one of the same file would take
    as much memory as the first.

    Args:
        path: The graph. A file that was replaced since is another graph.
        settings: All else that the session depends on: providers and their options.
        open_session: Opens it.

    Returns:
        An `onnxruntime.InferenceSession`. Raises what `open_session` raises.
    """
    state = path.stat()
    key = (state.st_dev, state.st_ino, state.st_size, state.st_mtime_ns, settings)
    return _sessions.get(key, open_session)
