"""What a run dropped, as JSON text: enough of a trace to draw it later."""

from __future__ import annotations

import base64
import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from sparsevlm_trt.runtime.trace import StageTrace, Trace

__all__ = ["record_from_trace", "trace_from_record"]


def record_from_trace(trace: Trace) -> dict[str, Any]:
    """Turn the decisions of a trace into plain JSON values; arrays become base64."""
    return {
        "method": trace.method,
        "prefix_length": trace.prefix_length,
        "num_visual": trace.num_visual,
        "num_text": trace.num_text,
        "grid": trace.grid,
        "stages": [
            {
                field.name: _pack(getattr(stage, field.name))
                for field in dataclasses.fields(StageTrace)
            }
            for stage in trace.stages
        ],
    }


def trace_from_record(record: Mapping[str, Any]) -> Trace:
    """Make a trace of what `record_from_trace` gave; times and bytes are left out."""
    return Trace(
        method=record["method"],
        prefix_length=record["prefix_length"],
        num_visual=record["num_visual"],
        num_text=record["num_text"],
        grid=None if record["grid"] is None else tuple(record["grid"]),
        stages=tuple(
            StageTrace(**{name: _unpack(value) for name, value in stage.items()})
            for stage in record["stages"]
        ),
        cache_lengths=(),
        kv_bytes=(),
        timings_ms=(),
        prefill_ms=0.0,
        decode_ms=(),
        host_prefill_ms=0.0,
        host_decode_ms=(),
    )


def _pack(value: Any) -> Any:
    if not isinstance(value, np.ndarray):
        return value
    small = "<i4" if value.dtype.kind == "i" else "<f4"
    data = base64.b64encode(value.astype(small).tobytes()).decode("ascii")
    return {"dtype": small, "data": data}


def _unpack(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    array = np.frombuffer(base64.b64decode(value["data"]), value["dtype"])
    return array.astype(np.int64 if array.dtype.kind == "i" else np.float32)
