"""The graphs of a bundle on an engine, each timed: stages with their caches, and all others.

Dims: B batch, S tokens of this call, N hidden size, R raters, V visual tokens, H heads, G kv
heads, D head size.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import DTypeLike, NDArray

from sparsevlm_trt.runtime.batch_cache import BatchCache
from sparsevlm_trt.runtime.device_array import Tensor, contiguous
from sparsevlm_trt.runtime.kv_cache import (
    Cache,
    HeldCache,
    HoldsCaches,
    PromptCache,
    StageCache,
)
from sparsevlm_trt.runtime.manifest import Manifest
from sparsevlm_trt.runtime.runner import Runner
from sparsevlm_trt.runtime.trace import Clock

__all__ = ["DEEPSTACK", "Shown", "Stages"]

Floats = NDArray[np.float32]
Index = NDArray[np.int64]
# An output of the vision graph; laid out as the prompt is, an input of the first stage.
DEEPSTACK = "deepstack_features"


@dataclass(frozen=True, slots=True, eq=False)
class Shown:
    """What a stage's last layer asked and held, in the model's type.

    Attributes:
        queries: Of the tokens of a call, `[B, S, H*D]`.
        keys: Of the same tokens, `[B, S, G*D]`.
    """

    queries: Tensor
    keys: Tensor


class Stages:
    """Runs the graphs of a bundle one by one.

    Attributes:
        specs: The stages, in order.
        num_deepstack: First layers whose outputs the vision tower feeds too.
    """

    def __init__(self, manifest: Manifest, runner: Runner) -> None:
        """Take a manifest, and a runner that has its graphs loaded."""
        model = manifest.model
        self._runner = runner
        self.specs = manifest.stages
        self.num_deepstack = model.num_deepstack or 0
        self._query_width = model.num_heads * model.head_dim
        self._cache_width = model.num_kv_heads * model.head_dim
        self._kv_dtype = np.dtype(model.kv_dtype)

    def empty(self, shape: Sequence[int], dtype: DTypeLike, /) -> Tensor:
        """Reserve an array where the engine computes."""
        return self._runner.empty(shape, dtype)

    def open_cache(self, number: int, batch: int, capacity: int) -> PromptCache | HeldCache:
        """Open the cache of a stage, in the engine where it keeps caches."""
        stage, runner = self.specs[number], self._runner
        if isinstance(runner, HoldsCaches):
            held = runner.open_cache(stage.graph, batch, capacity, self._kv_dtype)
            if held is not None:
                return held
        layers = range(stage.first, stage.stop)
        width = self._cache_width
        if batch == 1:
            return StageCache(layers, capacity, width, self._kv_dtype, runner.empty)
        return BatchCache(layers, batch, capacity, width, self._kv_dtype, runner.empty)

    def run_stage(
        self,
        number: int,
        hidden: Tensor,
        positions: Tensor,
        cache: Cache | HeldCache,
        clock: Clock,
        deepstack: Tensor | None = None,
        shows: bool = False,
    ) -> tuple[Tensor, Shown | None]:
        """Run a stage; its new keys and values go straight into the cache.

        Args:
            number: Of the stage.
            hidden: `[B, S, N]`.
            positions: `[B, S]`, or `[B, S, 3]`.
            cache: The stage's own.
            clock: Takes its time.
            deepstack: What the first layers add, `[B, S, k*N]`; None: nothing.
            shows: Whether raters will ask about its last layer: no last stage has any.
        """
        batch, count, _ = hidden.shape
        result = self._runner.empty(hidden.shape, hidden.dtype)
        inputs = {
            "hidden_states": hidden,
            "position_ids": positions,
            "past_lengths": cache.lengths.copy(),
        }
        if number == 0 and self.num_deepstack:
            if deepstack is None:
                width = self.num_deepstack * hidden.shape[2]
                deepstack = np.zeros((batch, count, width), hidden.dtype)
            inputs[DEEPSTACK] = deepstack
        into, shown = {"last_hidden_state": result}, None
        if shows:
            widths = (self._query_width, self._cache_width)
            shown = Shown(*(self._runner.empty((batch, count, w), hidden.dtype) for w in widths))
            into |= {"queries": shown.queries, "keys": shown.keys}
        graph = self.specs[number].graph
        if isinstance(cache, Cache):
            written = cache.new_views(count)
            self.run(graph, {**cache.views(), **inputs}, clock, into={**written, **into})
            cache.advance(written)
        else:
            started = time.perf_counter()
            cache.run(inputs, into)
            clock.add(graph, started)
        return result, shown

    def rater_attention(
        self, shown: Shown, rater_index: Index, visual_index: Index, clock: Clock, layer: int
    ) -> Tensor:
        """Compute what raters `[B, R]` see of visual tokens `[B, V]`: `[B, H, R, V]` float32."""
        inputs = {
            "queries": shown.queries,
            "keys": shown.keys,
            "rater_index": rater_index,
            "visual_index": visual_index,
        }
        made = self.run("rater_rows", inputs, clock, step=f"rater_rows_{layer}")
        return made["rater_attention"]

    def logits(self, hidden: Tensor, clock: Clock) -> Floats:
        """Run the head on the last position of `[B, S, N]`; logits `[B, vocab]`."""
        last = contiguous(hidden[:, -1])
        return np.asarray(self.run("head", {"hidden_states": last}, clock)["logits"])

    def run(
        self,
        graph: str,
        inputs: Mapping[str, Tensor],
        clock: Clock,
        into: Mapping[str, Tensor] | None = None,
        step: str | None = None,
    ) -> dict[str, Tensor]:
        """Run a graph and take its time."""
        started = time.perf_counter()
        outputs = self._runner.run(graph, inputs, into)
        clock.add(step or graph, started)
        return outputs
