"""A trace for people: one line, or tables with a map of the patches that were kept."""

from __future__ import annotations

import numpy as np

from sparsevlm_trt.runtime.table import format_table
from sparsevlm_trt.runtime.timing import Timing
from sparsevlm_trt.runtime.trace import Trace
from sparsevlm_trt.runtime.units import spell_bytes, spell_ms

__all__ = ["counts_text", "keep_map", "summary_line", "trace_text"]

_DROPPED = "."


def summary_line(trace: Trace, num_tokens: int, load_ms: float) -> str:
    """Tell times and counts of an answer in one line.

    Args:
        trace: Of the answer.
        num_tokens: Tokens made.
        load_ms: Time that opening the bundle took.
    """
    timing = Timing.of(trace)
    split = f"prepare {spell_ms(timing.prepare_ms)}, "
    split += f"vision {spell_ms(timing.vision_ms)}, " if timing.vision_ms else ""
    split += f"language model {spell_ms(timing.language_ms)}"
    parts = [f"first token {spell_ms(timing.first_token_ms)} ({split})"]
    if trace.num_visual:
        parts.append(counts_text(trace))
    speed = timing.tokens_per_s
    parts.append(f"{num_tokens} token{'s' if num_tokens != 1 else ''}")
    if speed is not None:
        parts[-1] += f", {speed:.1f} tokens/s"
    parts.append(f"KV cache {spell_bytes(trace.kv_bytes_total)}")
    parts.append(f"bundle opened in {spell_ms(load_ms)}")
    return " | ".join(parts)


def counts_text(trace: Trace) -> str:
    """Tell how many visual tokens there were at first, and after each prune step."""
    counts = (trace.num_visual, *(stage.num_visual_out for stage in trace.stages))
    return f"visual tokens {' > '.join(map(str, counts))}"


def trace_text(trace: Trace) -> str:
    """Tell every step before the first token, every prune step, and where it kept patches."""
    times = format_table(["step", "ms"], [(step, f"{ms:.2f}") for step, ms in trace.timings_ms])
    host = f"outside the graphs: {spell_ms(trace.host_prefill_ms)} of the prefill"
    if trace.decode_ms:
        host += f", {spell_ms(float(np.mean(trace.host_decode_ms)))} of each decode step"
    blocks = [times, host]
    if trace.stages:
        rows = [
            (step.layer, step.num_visual_in, len(step.kept), step.num_merged, step.num_visual_out)
            for step in trace.stages
        ]
        header = ["after layer", "visual in", "kept", "merged", "visual out"]
        blocks.append(format_table(header, rows))
    patches = keep_map(trace)
    if patches:
        blocks.append(f"patches by the number of prune steps that kept them:\n{patches}")
    return "\n\n".join(blocks)


def keep_map(trace: Trace) -> str:
    """Draw the patches: a dot where dropped at once, else how many prune steps kept it.

    Several images of one block lie below each other. Empty without a grid or without pruning.
    """
    if trace.grid is None or not trace.stages:
        return ""
    survived = np.zeros(trace.num_patches, np.int64)
    for step in trace.stages:
        survived[step.patches[step.patches >= 0]] += 1
    marks = [_DROPPED if count == 0 else str(min(count, 9)) for count in survived.tolist()]
    columns = trace.grid[1]
    return "\n".join(
        " ".join(marks[start : start + columns]) for start in range(0, len(marks), columns)
    )
