"""One decoder layer at a time, eagerly: its output, its attention probabilities, its cache."""

from typing import Any

import torch
from torch import Tensor, nn


class LayerCache:
    """Keys and values of each layer; layers may differ in length."""

    def __init__(self) -> None:
        """Start empty."""
        self._entries: dict[int, tuple[Tensor, Tensor]] = {}

    def update(
        self, key: Tensor, value: Tensor, layer: int, *_: Any, **__: Any
    ) -> tuple[Tensor, Tensor]:
        """Append `[1, G, S, D]` to a layer and return all it has; the decoder calls this."""
        if layer in self._entries:
            past_key, past_value = self._entries[layer]
            key = torch.cat([past_key, key], dim=2)
            value = torch.cat([past_value, value], dim=2)
        self._entries[layer] = (key, value)
        return key, value

    def length(self, layer: int) -> int:
        """Entries of a layer."""
        return self._entries[layer][0].shape[2] if layer in self._entries else 0


def run_layer(
    decoder: Any, layer: Any, hidden: Tensor, positions: Tensor, cache: LayerCache
) -> tuple[Tensor, Tensor]:
    """Run one decoder layer and catch its attention probabilities, `[1, H, S, L]`."""
    past, S = cache.length(layer.self_attn.layer_idx), hidden.shape[1]
    # Row i of this call sees the whole cache and itself and what came before it in this call.
    later = torch.full((S, past + S), torch.finfo(hidden.dtype).min).triu(past + 1)
    mask = later.to(hidden)[None, None]
    caught: list[Tensor | None] = []

    def catch(_module: nn.Module, _inputs: Any, outputs: Any) -> None:
        caught.append(outputs[1])

    hook = layer.self_attn.register_forward_hook(catch)
    try:
        output = layer(
            hidden,
            attention_mask=mask,
            position_ids=positions if positions.dim() == 2 else positions[..., 0],
            past_key_values=cache,
            use_cache=True,
            position_embeddings=decoder.rotary_emb(hidden, axes_first(positions)),
        )
    finally:
        hook.remove()
    probabilities = caught[0]
    if probabilities is None:
        raise ValueError(
            "attention | got no probabilities | expected those of every head | "
            'load the model with attn_implementation="eager"'
        )
    return output, probabilities


def axes_first(positions: Tensor) -> Tensor:
    """Position ids as a decoder's rotary embedding takes them: `[B, S, 3]` to `[3, B, S]`."""
    return positions if positions.dim() == 2 else positions.permute(2, 0, 1)
