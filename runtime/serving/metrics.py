"""Prometheus metrics: vLLM's names where it has them, and ours for what is pruned."""

from __future__ import annotations

import time
from collections.abc import Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from sparsevlm_trt.runtime.graph_spec import StageSpec
from sparsevlm_trt.runtime.serving.observer import Observer
from sparsevlm_trt.runtime.serving.pressure import Rung
from sparsevlm_trt.runtime.serving.ticket import Started, Ticket
from sparsevlm_trt.runtime.slots import SlotBatch

__all__ = ["Metrics"]

# Bounds in seconds: from a token of a small model on a GPU to a queue of minutes.
_WAIT = (0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0, 20.0, 60.0)
_STEP = (0.0003, 0.001, 0.003, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.2, 0.3, 0.5, 1.0, 2.0)
_ROWS = (1, 2, 4, 8, 16, 32, 64)


class Metrics(Observer):
    """Counts what an engine and its clients do, in a registry of its own."""

    def __init__(self, stages: Sequence[StageSpec]) -> None:
        """Begin at zero.

        Args:
            stages: Of the bundle, in order.
        """
        self._registry = CollectorRegistry()
        self._stages = tuple(stages)
        self._running = self._gauge("num_requests_running", "Requests that have a slot.")
        self._waiting = self._gauge("num_requests_waiting", "Requests that wait for a slot.")
        self._usage = self._gauge("kv_cache_usage_perc", "Allocated cache in use; 1 is all.")
        self._ttft = self._times("time_to_first_token_seconds", "From arrival.", _WAIT)
        self._itl = self._times("inter_token_latency_seconds", "Between two tokens.", _STEP)
        self._e2e = self._times("e2e_request_latency_seconds", "From arrival to the end.", _WAIT)
        self._prompt = self._counter("prompt_tokens", "Prompt tokens, before pruning.")
        self._made = self._counter("generation_tokens", "Tokens made.")
        self._success = self._counter("request_success", "Answers.", "finished_reason")
        self._aborted = self._counter("request_aborted", "Accepted, not answered.", "reason")
        self._refused = self._counter("request_refused", "Requests not let in.", "code")
        self._rows = self._times("decode_batch_rows", "Requests of one decode pass.", _ROWS)
        self._visual_in = self._counter("visual_tokens_in", "Visual tokens before pruning.")
        self._visual_kept = self._counter(
            "visual_tokens_kept", "Visual tokens that a stage computes on.", "stage"
        )
        self._prune = self._times("prune_time_seconds", "One prune step.", _STEP, "step")
        self._graph = self._times("prefill_step_seconds", "A graph of a prefill.", _STEP, "step")
        self._kv = self._gauge("kv_cache_bytes", "Keys and values in use.", "stage")
        self._reserved = self._gauge("kv_cache_reserved_bytes", "Allocated for them.", "stage")
        self._budget = self._gauge(
            "visual_budget",
            "Average visual tokens of requests that name no budget.",
        )
        self._predicted = self._gauge(
            "predicted_time_to_first_token_seconds", "Of a request that arrives now."
        )

    def text(self) -> bytes:
        """Return everything in Prometheus' text format."""
        return generate_latest(self._registry)

    def refused(self, code: str) -> None:
        """Count a request that was not let in."""
        self._refused.labels(code).inc()

    def pressure(self, rung: Rung, predicted_s: float) -> None:
        """Show the budget in force, and the prediction it was chosen by."""
        self._budget.set(rung.shown)
        self._predicted.set(predicted_s)

    def load(self, num_waiting: int, batch: SlotBatch) -> None:
        """See `Observer`."""
        self._waiting.set(num_waiting)
        self._running.set(batch.rows)
        used = [cache.used_bytes for cache in batch.caches]
        reserved = [cache.reserved_bytes for cache in batch.caches]
        for spec, used_bytes, reserved_bytes in zip(self._stages, used, reserved, strict=True):
            self._kv.labels(spec.graph).set(used_bytes)
            self._reserved.labels(spec.graph).set(reserved_bytes)
        self._usage.set(sum(used) / max(sum(reserved), 1))

    def prefilled(
        self, ticket: Ticket, started: Started, steps: Sequence[tuple[str, float]]
    ) -> None:
        """See `Observer`."""
        self._prompt.inc(started.num_prompt)
        self._visual_in.inc(started.num_visual)
        left = {stage.layer: stage.num_visual_out for stage in started.stages}
        num_visual = started.num_visual
        for spec in self._stages:
            self._visual_kept.labels(spec.graph).inc(num_visual)
            num_visual = left.get(spec.stop - 1, num_visual)
        for step, elapsed_ms in steps:
            place = self._prune if step.startswith("prune_") else self._graph
            place.labels(step).observe(elapsed_ms / 1e3)

    def first_token(self, ticket: Ticket, elapsed_s: float) -> None:
        """See `Observer`."""
        self._ttft.observe(elapsed_s)
        self._made.inc()

    def next_token(self, ticket: Ticket, elapsed_s: float) -> None:
        """See `Observer`."""
        self._itl.observe(elapsed_s)
        self._made.inc()

    def decoded(self, rows: int, elapsed_s: float) -> None:
        """See `Observer`."""
        self._rows.observe(rows)

    def ended(self, ticket: Ticket, reason: str, num_tokens: int) -> None:
        """See `Observer`."""
        if reason in ("stop", "length"):
            self._success.labels(reason).inc()
            self._e2e.observe(time.monotonic() - ticket.arrived)
        else:
            self._aborted.labels(reason).inc()

    def _gauge(self, name: str, what: str, *labels: str) -> Gauge:
        return Gauge(f"sparsevlm:{name}", what, labels, registry=self._registry)

    def _counter(self, name: str, what: str, *labels: str) -> Counter:
        return Counter(f"sparsevlm:{name}", what, labels, registry=self._registry)

    def _times(self, name: str, what: str, bounds: Sequence[float], *labels: str) -> Histogram:
        registry = self._registry
        return Histogram(f"sparsevlm:{name}", what, labels, registry=registry, buckets=bounds)
