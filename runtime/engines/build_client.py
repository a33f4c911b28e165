"""Talks to the build process: one request, a stream of events, and what a crash means."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from typing import Any

from sparsevlm_trt.runtime.errors import EngineError

__all__ = ["ask"]

_PROCESS = "sparsevlm_trt.runtime.tensorrt.build_process"
_LAST_LINES = 3  # of what the process printed before it died


def ask(request: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Run a build process on one request.

    Leaving the iterator early, an interrupt too, kills the process.

    Args:
        request: See `build_process`.

    Yields:
        Its events.

    Raises:
        EngineError: It died: of a crash in the library, or for want of memory.
    """
    with tempfile.TemporaryFile() as printed:
        process = subprocess.Popen(
            [sys.executable, "-m", _PROCESS],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=printed,
        )
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            process.stdin.write(json.dumps(request).encode())
            process.stdin.close()
            for line in process.stdout:
                yield json.loads(line)
            code = process.wait()
        except BrokenPipeError:
            code = process.wait()
        finally:
            process.kill()
            process.wait()
            process.stdout.close()
        if code != 0:
            printed.seek(0)
            lines = printed.read().decode(errors="replace").strip().splitlines()
            raise EngineError(f"{_death(code)}: {' '.join(lines[-_LAST_LINES:])[:300]}")


def _death(code: int) -> str:
    """Say what an exit status means."""
    if code == -signal.SIGKILL:
        return "the build process was killed, as when memory runs out"
    if code < 0:
        return f"the builder crashed ({signal.Signals(-code).name})"
    return f"the build process ended with status {code}"
