"""How many bytes a request takes on a device, from its shape alone: parts, and a bound of all.

Dims: B batch, S tokens, V visual tokens, T text tokens, R raters, N hidden size, H heads, G kv
heads, D head size.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from sparsevlm_trt.runtime.engines.limits import Limits
from sparsevlm_trt.runtime.flops import DTYPE_BYTES
from sparsevlm_trt.runtime.manifest import Manifest
from sparsevlm_trt.runtime.tensorrt.arena import aligned

__all__ = [
    "FLOAT_BYTES",
    "INDEX_BYTES",
    "RequestShape",
    "cache_bytes",
    "capacity_of",
    "entry_bytes",
    "forecast_bytes",
    "hidden_bytes",
    "request_bytes",
    "shown_bytes",
    "votes_bytes",
]

INDEX_BYTES, FLOAT_BYTES = 8, 4  # of an int64 and of a float32


@dataclass(frozen=True, slots=True)
class RequestShape:
    """What the sizes of a request follow from.

    Attributes:
        batch: Rows.
        num_prefix: Tokens before the visual block.
        num_visual: Tokens of the visual block, before pruning.
        num_text: Tokens after it.
        num_raters: Text tokens that judge.
        num_new: Tokens to make at most.
        visual_after: Visual tokens after each boundary, first to last; a boundary that does not
            prune repeats the number before it.
    """

    batch: int
    num_prefix: int
    num_visual: int
    num_text: int
    num_raters: int
    num_new: int
    visual_after: tuple[int, ...]

    def length(self, stage: int) -> int:
        """Tokens that a stage reads in prefill."""
        visual = (self.num_visual, *self.visual_after)[stage]
        return self.num_prefix + visual + self.num_text


def forecast_bytes(manifest: Manifest, limits: Limits) -> int:
    """Bytes that no request within the limits needs more of, activations of engines apart."""
    visual = max(2, limits.most_visual)
    # Raters and the visual tokens that they judge share the prompt.
    judged = max(1, min(visual, limits.max_prompt // 2))
    votes = judged * min(limits.most_text, max(1, limits.max_prompt - judged))
    shape = RequestShape(
        batch=limits.max_batch,
        num_prefix=0,
        num_visual=visual,
        num_text=max(0, limits.max_prompt - visual),
        num_raters=-(-votes // visual),
        num_new=limits.max_new_tokens,
        visual_after=(visual,) * (len(manifest.stages) - 1),
    )
    return max(request_bytes(manifest, shape), _vision_bytes(manifest, limits))


def request_bytes(manifest: Manifest, shape: RequestShape) -> int:
    """Bound a request's bytes: the caches, and the largest set that lives beside them."""
    stages = len(manifest.stages)
    caches = sum(
        2 * stage.num_layers * aligned(cache_bytes(manifest, shape, number))
        for number, stage in enumerate(manifest.stages)
    )
    longest = shape.num_prefix + max(shape.num_visual, *shape.visual_after, 0) + shape.num_text
    votes = aligned(votes_bytes(manifest, shape))
    shown = sum(aligned(size) for size in shown_bytes(manifest, shape, longest))
    index = shape.batch * longest * INDEX_BYTES * manifest.model.num_axes
    hidden = aligned(hidden_bytes(manifest, shape, longest))
    vision = aligned(hidden_bytes(manifest, shape, shape.num_visual))
    small = 12 * aligned(index) + aligned(shape.batch * manifest.model.vocab_size * FLOAT_BYTES)
    # Features for the first layers: as the tower gives them, and laid out as the prompt is.
    vision += (manifest.model.num_deepstack or 0) * (vision + hidden)
    # Three hidden states at once: the prompt's, a stage's result, the pruned one.
    return caches + 3 * hidden + vision + shown + votes + small + stages * aligned(1)


def _vision_bytes(manifest: Manifest, limits: Limits) -> int:
    """Bytes of what a vision graph reads and writes: pixels may outweigh what becomes of them."""
    tokens = limits.most_rows
    if limits.image is not None and limits.image.pixels is not None:
        tokens = limits.image.tokens * limits.max_images
    most = 0
    for name in ("vision", "video"):
        graph = manifest.graphs.get(name)
        for tensor in (*graph.inputs, *graph.outputs) if graph else ():
            named = tokens if "num_tokens" in tensor.shape else limits.most_rows
            sizes = [named if isinstance(size, str) else size for size in tensor.shape]
            most += aligned(math.prod(sizes) * DTYPE_BYTES.get(tensor.dtype, INDEX_BYTES))
    return most


def capacity_of(shape: RequestShape, stage: int) -> int:
    """Entries of a stage's caches: as `Chain.prefill` reserves them."""
    return shape.length(stage) + shape.num_new


def cache_bytes(manifest: Manifest, shape: RequestShape, stage: int) -> int:
    """Bytes of one cache of a stage: keys, or values, of one layer."""
    return shape.batch * capacity_of(shape, stage) * entry_bytes(manifest)


def entry_bytes(manifest: Manifest) -> int:
    """Bytes of a key, or of a value."""
    model = manifest.model
    return model.num_kv_heads * model.head_dim * DTYPE_BYTES[model.kv_dtype]


def hidden_bytes(manifest: Manifest, shape: RequestShape, length: int) -> int:
    """Bytes of hidden states of `length` tokens."""
    return shape.batch * length * manifest.model.hidden_size * _item_bytes(manifest)


def shown_bytes(manifest: Manifest, shape: RequestShape, length: int) -> tuple[int, int]:
    """What a stage shows of its last layer: queries and keys of a prompt."""
    model = manifest.model
    entry = shape.batch * length * model.head_dim * _item_bytes(manifest)
    return model.num_heads * entry, model.num_kv_heads * entry


def votes_bytes(manifest: Manifest, shape: RequestShape) -> int:
    """What the raters see, before anything is pruned: `[B, H, R, V]` float32."""
    per_head = shape.batch * shape.num_raters * shape.num_visual * FLOAT_BYTES
    return manifest.model.num_heads * per_head


def _item_bytes(manifest: Manifest) -> int:
    return DTYPE_BYTES[manifest.model.dtype]
