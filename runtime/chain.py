"""The chain: stages and prune steps on arrays, the same for every engine, without text.

Hidden states and caches stay where the engine computes; only decisions and logits are read here.

Dims: B batch, P prefix tokens before the visual block, V visual tokens now, T tokens after it,
S tokens of this call, N hidden size, R raters, H heads.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

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
from sparsevlm_trt.runtime.decoding import ChainState, Decoding
from sparsevlm_trt.runtime.device_array import Tensor, contiguous
from sparsevlm_trt.runtime.errors import InputError
from sparsevlm_trt.runtime.judging import Asked, judge
from sparsevlm_trt.runtime.kv_cache import HeldCache, PromptCache
from sparsevlm_trt.runtime.manifest import Manifest
from sparsevlm_trt.runtime.runner import Runner
from sparsevlm_trt.runtime.sight import Sight
from sparsevlm_trt.runtime.stages import Stages
from sparsevlm_trt.runtime.trace import Clock, StageTrace
from sparsevlm_trt.runtime.visuals.feature_cache import FeatureCache

__all__ = ["Chain"]

Floats = NDArray[np.float32]
Index = NDArray[np.int64]


class Chain:
    """Runs the graphs of a bundle in order.

    Attributes:
        dtype: The model's type.
        sight: Turns images and videos into tokens.
    """

    def __init__(
        self, manifest: Manifest, runner: Runner, features: FeatureCache | None = None
    ) -> None:
        """Take a manifest, a runner that has its graphs loaded, and what remembers images."""
        self._stages = Stages(manifest, runner)
        self.sight = Sight(self._stages, features)
        vision = manifest.vision
        # Only where an image is one such grid does a row of patches mean a row of tokens.
        self._image_grid = vision.grid if vision and vision.layout == "block" else None
        self._num_axes = manifest.model.num_axes
        self.dtype = np.dtype(manifest.model.dtype)

    def empty(self, shape: Sequence[int], dtype: DTypeLike, /) -> Tensor:
        """Reserve an array where the engine computes."""
        return self._stages.empty(shape, dtype)

    def embed(self, input_ids: Index, clock: Clock) -> Tensor:
        """Turn token ids `[B, S]` into embeddings `[B, S, N]`."""
        return self._stages.run("embed", {"input_ids": input_ids}, clock)["inputs_embeds"]

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
        caches: list[PromptCache | HeldCache] = []
        prunes: list[list[StageTrace]] = [[] for _ in range(batch)]
        for number, stage in enumerate(self._stages.specs):
            layer = stage.stop - 1
            cache = self._stages.open_cache(number, batch, hidden.shape[1] + num_new)
            caches.append(cache)
            start = layout.prefix + num_visual
            acts = layer in steps and num_visual - len(layout.words) >= 2
            asks = acts and votes.scores is None
            hidden, shown = self._stages.run_stage(
                number, hidden, positions, cache, clock, deepstack, shows=asks
            )
            if not acts:
                continue
            block = np.arange(layout.prefix, start, dtype=np.int64)
            rater_index, visual_index = votes.offsets + start, np.tile(block, (batch, 1))
            if shown is not None:
                attention = self._stages.rater_attention(
                    shown, rater_index, visual_index, clock, layer
                )
            else:
                assert votes.scores is not None
                scores = votes.scores[len(prunes[0])]
                attention = np.ascontiguousarray(scores[:, None, None])  # [B, 1, 1, V]
            judged = judge(
                partial(self._stages.run, clock=clock),
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
            out = self._stages.run(
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
        return self._stages.logits(hidden, clock), state

    def decode(self, tokens: Index, state: Decoding, clock: Clock) -> Floats:
        """Read one more token of each row.

        Args:
            tokens: `[B]` int64.
            state: What was read before; it grows by the token.
            clock: Takes the time of each graph.

        Returns:
            Logits `[B, vocab]`.
        """
        hidden = self.embed(tokens[:, None], clock)
        for number, cache in enumerate(state.caches):
            positions = state.positions(number)
            if self._num_axes > 1:  # a word stands at the same place on all axes
                positions = np.repeat(positions[..., None], self._num_axes, axis=2)
            hidden, _ = self._stages.run_stage(number, hidden, positions, cache, clock)
        state.step()
        return self._stages.logits(hidden, clock)

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
        return votes_of_mask(np.asarray(self._stages.run("raters", inputs, clock)["rater_mask"]))
