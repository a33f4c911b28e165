"""The chain: stages and prune steps on arrays, the same for every engine, without text.

Hidden states and caches stay where the engine computes; only decisions and logits are read here.

Dims: B batch, P prefix tokens before the visual block, V visual tokens now, T tokens after it,
S tokens of this call, N hidden size, R raters, H heads.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import DTypeLike, NDArray

from sparsevlm_ops.cells import block_grid
from sparsevlm_ops.host_scores import HOST_RULES
from sparsevlm_ops.schedule import BoundaryCounts
from sparsevlm_trt.runtime.boundary import (
    DECISION_OUTPUTS,
    Layout,
    Places,
    Pruning,
    Votes,
    above_all,
    replayed_votes,
    stage_trace,
    votes_of_mask,
)
from sparsevlm_trt.runtime.device_array import Tensor, contiguous
from sparsevlm_trt.runtime.errors import InputError
from sparsevlm_trt.runtime.judging import Asked, judge
from sparsevlm_trt.runtime.kv_cache import Cache, HeldCache, HoldsCaches, StageCache
from sparsevlm_trt.runtime.manifest import Manifest
from sparsevlm_trt.runtime.runner import Runner
from sparsevlm_trt.runtime.trace import Clock, StageTrace
from sparsevlm_trt.runtime.visuals.feature_cache import FeatureCache, Features

if TYPE_CHECKING:  # importing Pillow takes time that arrays do not need
    from sparsevlm_trt.runtime.visuals.visual import Visual, VisualLayout

__all__ = ["Chain", "ChainState", "Decoding"]

Floats = NDArray[np.float32]
Index = NDArray[np.int64]
# An output of the vision graph; laid out as the prompt is, an input of the first stage.
DEEPSTACK = "deepstack_features"


class Decoding(Protocol):
    """Rows that were read and wait for their next token."""

    @property
    def caches(self) -> Sequence[Cache | HeldCache]:
        """One for each stage."""

    def positions(self, stage: int) -> Index:
        """Where each row's next token stands in a stage, `[B, 1]` int64."""

    def step(self) -> None:
        """Count a token that every row read."""


@dataclass(slots=True)
class ChainState:
    """A prompt that has been read, ready for the next token; or a batch of equal layout.

    Attributes:
        caches: One for each stage.
        length: The position that comes next where positions are the prompt's own: its tokens as
            given, and all decode steps since.
        compact: Whether each stage decodes at its own cache length.
        prunes: The prune steps of each row of the batch.
    """

    caches: list[StageCache | HeldCache]
    length: int
    compact: bool
    prunes: list[list[StageTrace]]

    def positions(self, stage: int) -> Index:
        """Where each row's next token stands in a stage, `[B, 1]`; see `Decoding`."""
        lengths = self.caches[stage].lengths
        return (lengths if self.compact else np.full_like(lengths, self.length))[:, None]

    def step(self) -> None:
        """Count a token that was read; see `Decoding`."""
        self.length += 1


class Chain:
    """Runs the graphs of a bundle in order."""

    def __init__(
        self, manifest: Manifest, runner: Runner, features: FeatureCache | None = None
    ) -> None:
        """Take a manifest, a runner that has its graphs loaded, and what remembers images."""
        self._runner = runner
        self._features = features or FeatureCache(0)
        self._stages = manifest.stages
        vision = manifest.vision
        # Only where an image is one such grid does a row of patches mean a row of tokens.
        self._image_grid = vision.grid if vision and vision.layout == "block" else None
        self._heads = manifest.model.num_heads
        self._num_axes = manifest.model.num_axes
        self._num_deepstack = manifest.model.num_deepstack or 0
        self._cache_width = manifest.model.num_kv_heads * manifest.model.head_dim
        self.dtype = np.dtype(manifest.model.dtype)
        self.kv_dtype = np.dtype(manifest.model.kv_dtype)

    def empty(self, shape: Sequence[int], dtype: DTypeLike, /) -> Tensor:
        """Reserve an array where the engine computes."""
        return self._runner.empty(shape, dtype)

    def visuals(
        self, visuals: Sequence[Visual], layout: VisualLayout, clock: Clock
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Turn images and videos into the tokens of a prompt.

        All rows for one graph go through it at once.

        Returns:
            The tokens, `[1, tokens, N]` each, in order; and what the first layers add to them,
            `[1, tokens, k*N]` each, nothing where the tower feeds no layer.
        """
        from sparsevlm_trt.runtime.visuals.visual import joined_inputs

        keys = [self._features.key(one) for one in visuals]
        made = [self._features.find(key) for key in keys]
        unseen = {n: one for n, one in enumerate(visuals) if made[n] is None}
        for graph in dict.fromkeys(one.graph for one in unseen.values()):
            mine = {n: one for n, one in unseen.items() if one.graph == graph}
            outputs = self._run(graph, joined_inputs(list(mine.values())), clock)
            start = 0
            for number, one in mine.items():
                features = self._packed(one, layout, outputs, start)
                self._features.keep(keys[number], features)
                made[number] = features
                start += one.num_rows
        whole = [features for features in made if features is not None]
        return (
            [part for features in whole for part in features.tokens],
            [part for features in whole for part in features.deepstack],
        )

    def _packed(
        self, visual: Visual, layout: VisualLayout, outputs: Mapping[str, Tensor], start: int
    ) -> Features:
        """Lay out one visual's rows of the vision graph's outputs, from `start` on."""
        rows = slice(start, start + visual.num_rows)

        def packed(output: str) -> tuple[Tensor, ...]:
            return tuple(layout.pack(visual, {**outputs, "image_features": outputs[output][rows]}))

        deepstack = packed(DEEPSTACK) if self._num_deepstack else ()
        return Features(packed("image_features"), deepstack)

    def embed(self, input_ids: Index, clock: Clock) -> Tensor:
        """Turn token ids `[B, S]` into embeddings `[B, S, N]`."""
        return self._run("embed", {"input_ids": input_ids}, clock)["inputs_embeds"]

    def prefill(
        self,
        embeds: Tensor,
        layout: Layout,
        pruning: Pruning,
        num_new: int,
        clock: Clock,
        places: Places | None = None,
        deepstack: Tensor | None = None,
    ) -> tuple[Floats, ChainState]:
        """Read a prompt.

        A boundary that sees fewer than two visual tokens leaves them alone: one must stay and
        one must go.

        Args:
            embeds: The prompt, `[B, S, N]` of the model's dtype.
            layout: Where its visual block lies.
            pruning: What to do at the boundaries.
            num_new: Decode steps that will follow, at most: the caches hold as many more.
            clock: Takes the time of each graph.
            places: Positions of the tokens; None: one after the other.
            deepstack: What the first k layers add, `[B, S, k*N]`, model's dtype; None: nothing.

        Returns:
            Logits of the last position, `[B, vocab]`, and the state to decode from.

        Raises:
            InputError: The scores to replay do not fit the boundaries.
        """
        batch, length, _ = embeds.shape
        words: Index = np.tile(np.array(layout.words, np.int64), (batch, 1))
        if layout.words and pruning.method.pools:
            raise InputError(
                f"method {pruning.method.name} | got words between images | expected images side "
                "by side, as their tokens are averaged by place | use another method"
            )
        steps = pruning.steps(layout.num_patches, self._image_grid)
        votes = self._votes(embeds, layout, pruning, steps, clock)
        hidden = embeds
        # Positions of three axes tell where a patch lies: they are never renumbered.
        compact = pruning.is_compact and self._num_axes == 1
        places = Places.in_order(length, self._num_axes) if places is None else places
        positions: Tensor = np.repeat(places.positions[None], batch, axis=0)
        patches = [layout.patches()] * batch
        num_visual = layout.num_visual
        caches: list[StageCache | HeldCache] = []
        prunes: list[list[StageTrace]] = [[] for _ in range(batch)]
        for number, stage in enumerate(self._stages):
            layer = stage.stop - 1
            cache = self._open_cache(number, batch, hidden.shape[1] + num_new)
            caches.append(cache)
            start = layout.prefix + num_visual
            acts = layer in steps and num_visual - len(layout.words) >= 2
            asks = acts and votes.scores is None
            rater_index = votes.offsets + start if asks else _nothing(batch)
            block = np.arange(layout.prefix, start, dtype=np.int64)
            visual_index = np.tile(block, (batch, 1)) if asks else _nothing(batch)
            hidden, attention = self._stage(
                number, hidden, positions, cache, rater_index, visual_index, clock, deepstack
            )
            if not acts:
                continue
            if votes.scores is not None:
                scores = votes.scores[len(prunes[0])]
                attention = np.ascontiguousarray(scores[:, None, None])  # [B, 1, 1, V]
            judged = judge(
                partial(self._run, clock=clock),
                pruning,
                votes,
                steps[layer],
                Asked(
                    layer,
                    num_visual - len(layout.words),
                    attention,
                    positions,
                    rater_index,
                    visual_index,
                ),
            )
            if not judged.step.prunes:
                continue
            weighed = judged.attention
            if layout.words:
                weighed = above_all(np.asarray(weighed), words, num_visual)
            out = self._run(
                f"prune_{pruning.method.name}",
                {
                    "hidden_states": hidden,
                    "position_ids": positions,
                    "rater_attention": weighed,
                    "rater_weights": judged.weights,
                    "prefix_length": np.array([layout.prefix], np.int64),
                    "num_kept": np.array([judged.step.num_asked + len(layout.words)], np.int64),
                    "original_positions": np.array([not compact], np.int64),
                },
                clock,
                step=f"prune_{layer}",
            )
            hidden, positions = out["next_hidden_states"], out["next_position_ids"]
            num_in = num_visual
            num_visual = hidden.shape[1] - layout.prefix - layout.num_text
            told = {name: np.asarray(out[name]) for name in DECISION_OUTPUTS}
            for row, done in enumerate(prunes):
                trace = stage_trace(layer, told, row, num_in, num_visual, patches[row])
                patches[row] = trace.patches
                done.append(trace)
                words[row] = np.searchsorted(trace.kept, words[row])
        state = ChainState(caches, places.following, compact, prunes)
        return self._logits(hidden, clock), state

    def decode(self, tokens: Index, state: Decoding, clock: Clock) -> Floats:
        """Read one more token of each row.

        Args:
            tokens: `[B]` int64.
            state: What was read before; it grows by the token.
            clock: Takes the time of each graph.

        Returns:
            Logits `[B, vocab]`.
        """
        batch = tokens.shape[0]
        nothing = _nothing(batch)
        hidden = self.embed(tokens[:, None], clock)
        for number, cache in enumerate(state.caches):
            positions = state.positions(number)
            if self._num_axes > 1:  # a word stands at the same place on all axes
                positions = np.repeat(positions[..., None], self._num_axes, axis=2)
            hidden, _ = self._stage(number, hidden, positions, cache, nothing, nothing, clock)
        state.step()
        return self._logits(hidden, clock)

    def _votes(
        self,
        embeds: Tensor,
        layout: Layout,
        pruning: Pruning,
        steps: Mapping[int, BoundaryCounts | None],
        clock: Clock,
    ) -> Votes:
        """Find out who judges the visual tokens: given scores, tokens of the text, or nobody."""
        batch = embeds.shape[0]
        if pruning.replay is not None and pruning.prunes:
            more = len(layout.words)
            counts = {layer: step.num_in + more for layer, step in steps.items() if step}
            return replayed_votes(pruning.replay, counts, batch)
        if not steps:
            return Votes.nobody(batch)
        who = pruning.method.judge
        if who in HOST_RULES:
            grid = block_grid(layout.num_patches, self._image_grid)
            counted = [step for step in steps.values() if step]
            return Votes.given(HOST_RULES[who](counted, grid, pruning.seed), batch)
        if who == "last_token" or layout.num_text == 0:
            return Votes.last_token(batch, layout.num_text)
        start = layout.prefix + layout.num_visual
        visual, text = embeds[:, layout.prefix : start], embeds[:, start:]
        if layout.words:  # who judges is settled by images and the text after them alone
            visual = np.delete(np.asarray(visual), layout.words, axis=1)
        inputs = {"visual_embeds": contiguous(visual), "text_embeds": contiguous(text)}
        return votes_of_mask(np.asarray(self._run("raters", inputs, clock)["rater_mask"]))

    def _stage(
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
        votes = (batch, self._heads, rater_index.shape[1], visual_index.shape[1])
        attention = self._runner.empty(votes, np.float32)
        inputs = {
            "hidden_states": hidden,
            "position_ids": positions,
            "past_lengths": cache.lengths.copy(),
        }
        if number == 0 and self._num_deepstack:
            if deepstack is None:
                width = self._num_deepstack * hidden.shape[2]
                deepstack = np.zeros((batch, count, width), hidden.dtype)
            inputs[DEEPSTACK] = deepstack
        into = {"last_hidden_state": result}
        if number < len(self._stages) - 1:
            inputs["rater_index"], inputs["visual_index"] = rater_index, visual_index
            into["rater_attention"] = attention
        graph = self._stages[number].graph
        if isinstance(cache, Cache):
            written = cache.new_views(count)
            self._run(graph, {**cache.views(), **inputs}, clock, into={**written, **into})
            cache.advance(written)
        else:
            started = time.perf_counter()
            cache.run(inputs, into)
            clock.add(graph, started)
        return result, attention

    def _open_cache(self, number: int, batch: int, capacity: int) -> StageCache | HeldCache:
        """Open the cache of a stage, in the engine where it keeps caches."""
        stage, runner = self._stages[number], self._runner
        if isinstance(runner, HoldsCaches):
            held = runner.open_cache(stage.graph, batch, capacity, self.kv_dtype)
            if held is not None:
                return held
        layers = range(stage.first, stage.stop)
        width = self._cache_width
        return StageCache(layers, batch, capacity, width, self.kv_dtype, runner.empty)

    def _logits(self, hidden: Tensor, clock: Clock) -> Floats:
        """Run the head on the last position."""
        last = contiguous(hidden[:, -1])
        return np.asarray(self._run("head", {"hidden_states": last}, clock)["logits"])

    def _run(
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


def _nothing(batch: int) -> Index:
    """Return the index of no token, `[B, 0]`."""
    return np.empty((batch, 0), np.int64)
