"""The process that touches the builder: `python -m sparsevlm_trt.runtime.tensorrt.build_process`.

Each engine is built in a process of its own, so that memory comes back between stages, a crash in
the library is an answer, and a stop is a kill. Reads one JSON request from standard input, writes
events to standard output, one JSON object a line.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any, TextIO

from sparsevlm_trt.runtime.engines.profiles import Profile, Range
from sparsevlm_trt.runtime.errors import SparseVLMError
from sparsevlm_trt.runtime.strict_json import encode
from sparsevlm_trt.runtime.tensorrt.build import build_engine, flags_from
from sparsevlm_trt.runtime.tensorrt.library import load_library
from sparsevlm_trt.runtime.tensorrt.network import ParsedNetwork
from sparsevlm_trt.runtime.tensorrt.static_check import network_problems

__all__ = ["main"]

_PR_SET_PDEATHSIG = 1  # <sys/prctl.h>


def main() -> None:
    """Serve one request."""
    _die_with_parent()
    with _channel() as channel:

        def tell(**event: object) -> None:
            channel.write(json.dumps(event) + "\n")
            channel.flush()

        request = json.load(sys.stdin)
        try:
            trt = load_library(request["target"]).module
            if "place" in request:
                _build(trt, request, tell)
            else:
                _check(trt, request, tell)
        except SparseVLMError as error:
            tell(event="refused", reason=str(error))
        except (OSError, MemoryError) as error:
            tell(event="refused", reason=f"{type(error).__name__}: {error}")


def _build(trt: Any, request: dict[str, Any], tell: Any) -> None:
    built = build_engine(
        trt,
        Path(request["graph"]),
        _profiles(request["profiles"]),
        flags_from(request["flags"]),
        Path(request["place"]),
        lambda phase, share: tell(event="progress", phase=phase, share=round(share, 3)),
    )
    tell(event="built", **encode(built))


def _check(trt: Any, request: dict[str, Any], tell: Any) -> None:
    for name, one in request["graphs"].items():
        tell(event="checking", graph=name)
        parsed = ParsedNetwork(trt, Path(one["graph"]))
        problems = network_problems(parsed, _profiles(one["profiles"]))
        tell(event="checked", graph=name, problems=problems)


def _profiles(values: list[dict[str, dict[str, list[int]]]]) -> tuple[Profile, ...]:
    return tuple(
        {
            name: Range(tuple(one["min"]), tuple(one["opt"]), tuple(one["max"]))
            for name, one in profile.items()
        }
        for profile in values
    )


def _channel() -> TextIO:
    """Take standard output for the events alone: libraries print to it too."""
    channel = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return channel


def _die_with_parent() -> None:
    """End when the compile command is killed, however it is."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


if __name__ == "__main__":
    main()
