"""The graphs of a bundle on an engine, each timed: stages with their caches, and all others.

Dims: B batch, S tokens of this call, N hidden size, R raters, V visual tokens, H heads.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import DTypeLike, NDArray

from sparsevlm_trt.runtime.device_array import Tensor, contiguous
from sparsevlm_trt.runtime.kv_cache import Cache, HeldCache, HoldsCaches, StageCache
from sparsevlm_trt.runtime.manifest import Manifest
from sparsevlm_trt.runtime.runner import Runner
from sparsevlm_trt.runtime.trace import Clock

__all__ = ["DEEPSTACK", "Stages"]

Floats = NDArray[np.float32]
Index = NDArray[np.int64]
# An output of the vision graph; laid out as the prompt is, an input of the first stage.
DEEPSTACK = "deepstack_features"


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
        self._num_heads = model.num_heads
        self._cache_width = model.num_kv_heads * model.head_dim
        self._kv_dtype = np.dtype(model.kv_dtype)

    def empty(self, shape: Sequence[int], dtype: DTypeLike, /) -> Tensor:
        """Reserve an array where the engine computes."""
        return self._runner.empty(shape, dtype)

    def open_cache(self, number: int, batch: int, capacity: int) -> StageCache | HeldCache:
        """Open the cache of a stage, in the engine where it keeps caches."""
        stage, runner = self.specs[number], self._runner
        if isinstance(runner, HoldsCaches):
            held = runner.open_cache(stage.graph, batch, capacity, self._kv_dtype)
            if held is not None:
                return held
        layers = range(stage.first, stage.stop)
        width = self._cache_width
        return StageCache(layers, batch, capacity, width, self._kv_dtype, runner.empty)

    def run_stage(
        self,
        number: int,
        hidden: Tensor,
        positions: Tensor,
        cache: Cache | HeldCache,
        rater_index: Index,
        visual_index: Index,
        clock: Clock,
        deepstack: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Run a stage; its new keys and values go straight into the cache."""
        batch, count, _ = hidden.shape
        result = self._runner.empty(hidden.shape, hidden.dtype)
        votes = (batch, self._num_heads, rater_index.shape[1], visual_index.shape[1])
        attention = self._runner.empty(votes, np.float32)
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
        into = {"last_hidden_state": result}
        if number < len(self.specs) - 1:
            inputs["rater_index"], inputs["visual_index"] = rater_index, visual_index
            into["rater_attention"] = attention
        graph = self.specs[number].graph
        if isinstance(cache, Cache):
            written = cache.new_views(count)
            self.run(graph, {**cache.views(), **inputs}, clock, into={**written, **into})
            cache.advance(written)
        else:
            started = time.perf_counter()
            cache.run(inputs, into)
            clock.add(graph, started)
        return result, attention

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
