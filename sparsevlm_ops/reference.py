"""Pruned prefill and greedy decode in plain PyTorch: what every exported chain is compared to.

One prompt, one layer after the other, the sequence cut by slices: nothing is traced, so nothing
is arranged for a tracer. Runs Hugging Face decoders by duck typing, with eager attention.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from sparsevlm_ops.methods import get_method
from sparsevlm_ops.raters import rater_mask, rater_scores
from sparsevlm_ops.recycling import merge_clusters
from sparsevlm_ops.schedule import Schedule, num_candidates, num_kept, num_merged
from sparsevlm_ops.scoring import visual_scores
from sparsevlm_ops.selection import select


class CausalModel(Protocol):
    """A Hugging Face model: its decoder has `layers`, `norm` and `rotary_emb`."""

    def get_decoder(self) -> Any: ...  # noqa: D102
    def get_input_embeddings(self) -> nn.Module: ...  # noqa: D102
    def get_output_embeddings(self) -> nn.Module: ...  # noqa: D102


@dataclass(frozen=True, slots=True, eq=False)
class ReferenceStage:
    """What happened at one boundary.

    Attributes:
        layer: The pruning layer.
        scores: Visual scores, `[V]`, float32; a replay's own where it gives scores.
        kept: `[K]`, ascending, relative to this stage's visual block.
        merge_candidates: `[M]`, descending by score.
        merged: Merged tokens, `[C, N]`.
        hidden: Input of the next layer, `[S', N]`.
        position_ids: From the next layer on, `[S']`.
        num_visual_in: V before.
        num_visual_out: K + C.
    """

    layer: int
    scores: Tensor
    kept: Tensor
    merge_candidates: Tensor
    merged: Tensor
    hidden: Tensor
    position_ids: Tensor
    num_visual_in: int
    num_visual_out: int


@dataclass(frozen=True, slots=True, eq=False)
class ReferenceResult:
    """A generation and every decision on the way.

    Attributes:
        tokens: Greedy tokens; the first one is the prefill's.
        prefill_logits: `[vocab]`, float32, at the last prompt position.
        step_logits: `[len(tokens) - 1, vocab]`, float32: row i is had by feeding token i.
        rater_scores: `[T]`, float32; empty without raters.
        rater_index: Raters, ascending, counted from the first text token after the image.
        stages: One per boundary that pruned.
        decode_positions: `[len(tokens) - 1, layers]`: the position each layer rotated by.
        kv_lengths: Cache entries of each layer after the prefill.
    """

    tokens: list[int]
    prefill_logits: Tensor
    step_logits: Tensor
    rater_scores: Tensor
    rater_index: Tensor
    stages: list[ReferenceStage]
    decode_positions: Tensor
    kv_lengths: list[int]


class LayerCache:
    """Keys and values of each layer; layers may differ in length."""

    def __init__(self) -> None:
        """Start empty."""
        self._entries: dict[int, tuple[Tensor, Tensor]] = {}

    def update(self, key: Tensor, value: Tensor, layer: int, *_: Any) -> tuple[Tensor, Tensor]:
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


@torch.no_grad()
def pruned_generate(
    model: CausalModel,
    inputs_embeds: Tensor,
    prefix_length: int,
    num_visual: int,
    schedule: Schedule | None,
    method: str = "sparsevlm",
    max_new_tokens: int = 1,
    replay: Sequence[Tensor] | None = None,
) -> ReferenceResult:
    """Generate greedily with the visual tokens pruned on the way through the layers.

    Args:
        model: With eager attention (`attn_implementation="eager"`).
        inputs_embeds: prefix | visual | text, `[1, S, N]`.
        prefix_length: P.
        num_visual: V; 0 for a text-only prompt, which nothing prunes.
        schedule: Tokens kept after each pruning layer; None only for a method that prunes none.
        method: One of `sparsevlm_ops.methods.METHODS`.
        max_new_tokens: Tokens to generate, 1 or more; there is no stop token.
        replay: One tensor per boundary that prunes, in place of its own decision: scores `[V]`
            (floating), or the kept index `[K]` (integer; the dropped ones rank by own scores).

    Raises:
        ValueError: A pruning method without a schedule, a schedule the model does not reach, or
            attention that gives no probabilities.

    Source: SparseVLM (arXiv 2410.04417), section 3; the authors' code, v1.5.
    """
    rules = get_method(method)
    decoder = model.get_decoder()
    num_layers = len(decoder.layers)
    kept_after = _kept_after(schedule, rules.prunes, num_layers)
    P, V = prefix_length, num_visual
    decisions = list(replay) if replay is not None else None

    # Text raters: once, from the raw embeddings; only text after the image votes.
    raters, scores = _text_raters(inputs_embeds, P, V, rules.uses_raters)

    hidden = inputs_embeds
    positions = torch.arange(hidden.shape[1], device=hidden.device)[None]
    cache = LayerCache()
    stages = []
    for index, layer in enumerate(decoder.layers):
        hidden, probabilities = _run_layer(decoder, layer, hidden, positions, cache)
        if index not in kept_after or V < 2:
            continue
        # The raters' rows, the visual columns, averaged over heads and raters.
        rows = probabilities[:, :, P + V + raters, P : P + V].float()  # [1, H, R, V]
        stage = _prune(
            index,
            hidden[0],
            positions[0],
            visual_scores(rows, torch.ones_like(rows[:, 0, :, 0])),
            (P, V, num_kept(kept_after[index], V)),
            decisions.pop(0) if decisions else None,
        )
        stages.append(stage)
        hidden, positions, V = stage.hidden[None], stage.position_ids[None], stage.num_visual_out
    head = model.get_output_embeddings()
    prefill_logits = head(decoder.norm(hidden[:, -1]))[0].float()

    kv_lengths = [cache.length(index) for index in range(num_layers)]
    tokens = [int(prefill_logits.argmax())]
    step_logits, decode_positions = [], []
    while len(tokens) < max_new_tokens:
        hidden = model.get_input_embeddings()(torch.tensor([[tokens[-1]]], device=hidden.device))
        # Survivors were renumbered without gaps, so a layer's next position is its cache length.
        lengths = [cache.length(index) for index in range(num_layers)]
        for layer, length in zip(decoder.layers, lengths, strict=True):
            position = torch.tensor([[length]], device=hidden.device)
            hidden, _ = _run_layer(decoder, layer, hidden, position, cache)
        logits = head(decoder.norm(hidden[:, -1]))[0].float()
        step_logits.append(logits)
        decode_positions.append(lengths)
        tokens.append(int(logits.argmax()))
    return ReferenceResult(
        tokens=tokens,
        prefill_logits=prefill_logits,
        step_logits=torch.stack([prefill_logits, *step_logits])[1:],
        rater_scores=scores,
        rater_index=raters,
        stages=stages,
        decode_positions=torch.tensor(decode_positions, dtype=torch.int64).reshape(-1, num_layers),
        kv_lengths=kv_lengths,
    )


def _kept_after(schedule: Schedule | None, prunes: bool, num_layers: int) -> dict[int, int]:
    if not prunes:
        return {}
    if schedule is None:
        raise ValueError(
            "schedule | got None | expected the tokens kept after each pruning layer, as the "
            "method prunes | give a Schedule, or method 'none'"
        )
    schedule.check_layers(num_layers)
    return schedule.as_dict()


def _text_raters(
    inputs_embeds: Tensor, prefix_length: int, num_visual: int, votes: bool
) -> tuple[Tensor, Tensor]:
    if not votes or not num_visual:
        nothing = torch.zeros(0, device=inputs_embeds.device)
        return nothing.to(torch.int64), nothing
    after = prefix_length + num_visual
    if after == inputs_embeds.shape[1]:
        # The prompt ends with its image: its last token rates, the row the answer is made from.
        return torch.tensor([-1], device=inputs_embeds.device), inputs_embeds.new_zeros(0)
    scores = rater_scores(inputs_embeds[:, prefix_length:after], inputs_embeds[:, after:])
    return rater_mask(scores)[0].nonzero()[:, 0], scores[0]


def _run_layer(
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
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
            position_embeddings=decoder.rotary_emb(hidden, positions),
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


def _prune(
    layer: int,
    hidden: Tensor,
    positions: Tensor,
    scores: Tensor,
    layout: tuple[int, int, int],
    replay: Tensor | None,
) -> ReferenceStage:
    """Keep, merge and rejoin: hidden `[S, N]`, positions `[S]`, scores `[1, V]`, (P, V, K)."""
    P, V, K = layout
    ranked = scores
    if replay is not None and replay.is_floating_point():
        ranked = scores = replay.reshape(1, V).to(scores)
    elif replay is not None:
        K = replay.numel()
        ranked = scores.index_fill(1, replay.reshape(-1).to(scores.device), torch.inf)
    kept, candidates = (rows[0] for rows in select(ranked, K, num_candidates(V - K)))
    prefix, visual, suffix = hidden[:P], hidden[P : P + V], hidden[P + V :]
    merged = merge_clusters(visual[candidates][None], num_merged(len(candidates)))[0]
    following = torch.cat([prefix, visual[kept], merged, suffix])
    return ReferenceStage(
        layer=layer,
        scores=scores[0],
        kept=kept,
        merge_candidates=candidates,
        merged=merged,
        hidden=following,
        position_ids=positions[: len(following)],
        num_visual_in=V,
        num_visual_out=K + len(merged),
    )
