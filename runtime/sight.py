"""Images and videos become tokens: what is remembered is not looked at again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from sparsevlm_trt.runtime.device_array import Tensor
from sparsevlm_trt.runtime.stages import DEEPSTACK, Stages
from sparsevlm_trt.runtime.trace import Clock
from sparsevlm_trt.runtime.visuals.feature_cache import FeatureCache, Features

if TYPE_CHECKING:  # importing Pillow takes time that arrays do not need
    from sparsevlm_trt.runtime.visuals.visual import Visual, VisualLayout

__all__ = ["Sight"]


class Sight:
    """Runs the vision graphs of a bundle."""

    def __init__(self, graphs: Stages, features: FeatureCache | None = None) -> None:
        """Take what runs the graphs, and what remembers images."""
        self._graphs, self._features = graphs, features or FeatureCache(0)

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
            outputs = self._graphs.run(graph, joined_inputs(list(mine.values())), clock)
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

        deepstack = packed(DEEPSTACK) if self._graphs.num_deepstack else ()
        return Features(packed("image_features"), deepstack)
