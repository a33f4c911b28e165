"""What each graph should compute, by transformers' modules and the ops, on the same inputs.

Nothing here uses the stage modules that were exported: an error in one of them would hide itself.

Dims: B batch, S new tokens, L cache length, G kv heads, D head size, N hidden size, R raters,
V visual tokens, K kept, M merge candidates.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import Tensor, nn

from sparsevlm_ops.eager_layer import axes_first
from sparsevlm_ops.gravity import gravity_scores, gravity_weights
from sparsevlm_ops.methods import Method, get_method
from sparsevlm_ops.raters import rater_mask, rater_scores
from sparsevlm_ops.scoring import visual_scores
from sparsevlm_ops.steps import step_of
from sparsevlm_trt.export.parity.reference_model import ReferenceModel
from sparsevlm_trt.export.parity.vision_reference import vision_reference
from sparsevlm_trt.runtime.graph_spec import StageSpec
from sparsevlm_trt.runtime.manifest import Manifest
from sparsevlm_trt.runtime.runner import Array

__all__ = ["TorchGraphs"]

# Outputs that a bundle keeps times its residual scale; transformers does not.
_SCALED = ("last_hidden_state", "next_hidden_states")


class TorchGraphs:
    """The graphs of a bundle in PyTorch, float32."""

    def __init__(self, reference: ReferenceModel, manifest: Manifest) -> None:
        """Take the checkpoint's model."""
        self._reference = reference
        self._stages = {stage.graph: stage for stage in manifest.stages}
        self._last = manifest.stages[-1].graph
        self._scale = manifest.model.residual_scale

    @torch.no_grad()
    def run(
        self, graph: str, inputs: Mapping[str, Array], outputs: Mapping[str, Array]
    ) -> dict[str, Array]:
        """Compute a graph's outputs.

        Args:
            graph: Its name.
            inputs: All its inputs.
            outputs: What the bundle's graph made of them. Read for a prune graph alone, whose
                next sequence is judged by the decision that it took: the decision itself is
                another question, and a tie may go either way.

        Returns:
            Float32 arrays for float outputs; of a prune graph those without `kept_index` and
            `merge_candidates`.
        """
        given = {name: _tensor(value) for name, value in inputs.items()}
        if "hidden_states" in given and not self._is_first(graph):
            given["hidden_states"] = given["hidden_states"] / self._scale
        if graph in self._stages:
            made = self.stage(self._stages[graph], given)
        elif graph.startswith("prune_"):
            made = _prune(get_method(graph.removeprefix("prune_")), given, outputs)
        elif graph == "rater_rows":
            made = {"rater_attention": self.rater_attention(given)}
        elif graph == "rank":
            made = {"rank": _rank(given)}
        elif graph == "gravity":
            made = {"corrected_attention": self._gravity(given)}
        elif graph == "raters":
            scores = rater_scores(given["visual_embeds"], given["text_embeds"])
            made = {"rater_scores": scores, "rater_mask": rater_mask(scores)}
        elif graph in ("vision", "video"):
            made = vision_reference(self._reference.model, graph, given)
        elif graph == "embed":
            made = {"inputs_embeds": self._reference.embed(given["input_ids"])}
        else:
            made = {"logits": self._reference.logits(given["hidden_states"])}
        for name in _SCALED:
            if name in made:
                made[name] = made[name] * self._scale
        return {name: value.numpy() for name, value in made.items()}

    def _is_first(self, graph: str) -> bool:
        """Whether a graph takes embeddings, which are never scaled."""
        return graph in self._stages and self._stages[graph].first == 0

    def _gravity(self, given: Mapping[str, Tensor]) -> Tensor:
        """Correct attention by the model's own rotary frequencies."""
        decoder = self._reference.decoder
        head_dim = decoder.layers[0].self_attn.head_dim
        table = gravity_weights(
            decoder.rotary_emb.inv_freq, head_dim, decoder.config.max_position_embeddings
        )
        scores = gravity_scores(
            given["rater_attention"],
            given["rater_weights"],
            given["rater_positions"],
            given["visual_positions"],
            int(given["num_heads"]),
            table,
        )
        return scores[:, None, None]

    @torch.no_grad()
    def stage(self, stage: StageSpec, given: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Run the decoder's own layers `[first, stop)` on a stage graph's inputs, float32."""
        decoder = self._reference.decoder
        hidden, positions = given["hidden_states"], given["position_ids"]
        past = given[f"past_key_values.{stage.first}.key"].shape[1]
        mask = _mask(hidden.shape[1], past, given["past_lengths"])
        rotary = decoder.rotary_emb(hidden, axes_first(positions))
        made: dict[str, Tensor] = {}
        fed = given.get("deepstack_features")
        added = () if fed is None else torch.split(fed, hidden.shape[2], dim=2)
        for number in range(stage.first, stage.stop):
            layer = decoder.layers[number]
            cache = _OneLayerCache(
                given[f"past_key_values.{number}.key"],
                given[f"past_key_values.{number}.value"],
                layer.self_attn.head_dim,
            )
            with _Queries(layer.self_attn) as queries:
                hidden = layer(
                    hidden,
                    attention_mask=mask,
                    position_ids=positions if positions.dim() == 2 else positions[..., 0],
                    past_key_values=cache,
                    use_cache=True,
                    position_embeddings=rotary,
                )
            if number < len(added):
                hidden = hidden + added[number]
            made[f"new_key_values.{number}.key"] = _rows(cache.new_key)
            made[f"new_key_values.{number}.value"] = _rows(cache.new_value)
        made["last_hidden_state"] = hidden
        if stage.graph != self._last:
            made["queries"], made["keys"] = _rows(queries.rotated), _rows(cache.new_key)
        return made

    @torch.no_grad()
    def rater_attention(self, given: Mapping[str, Tensor]) -> Tensor:
        """Look up the raters' rows, `[B, H, R, V]`, in the attention of all tokens."""
        attention = self._reference.decoder.layers[0].self_attn
        queries, keys = (_heads(given[name], attention.head_dim) for name in ("queries", "keys"))
        keys = keys.repeat_interleave(queries.shape[1] // keys.shape[1], dim=1)
        none_before = torch.zeros(len(queries), dtype=torch.int64)
        mask = _mask(queries.shape[2], 0, none_before)
        products = queries @ keys.transpose(2, 3) * attention.scaling
        probabilities = torch.softmax(products + mask, dim=-1)  # [B, H, S, S]
        rows = given["rater_index"][:, None, :, None]  # [B, 1, R, 1]
        columns = given["visual_index"][:, None, None, :]  # [B, 1, 1, V]
        batch = torch.arange(len(queries))[:, None, None, None]
        heads = torch.arange(queries.shape[1])[None, :, None, None]
        return probabilities[batch, heads, rows, columns]


class _Queries:
    """Catches the queries that a layer's eager attention is given, rotary applied.

    Attributes:
        rotated: `[B, H, S, D]`.
    """

    rotated: Tensor

    def __init__(self, attention: nn.Module) -> None:
        """Take the module; transformers keeps its function beside it."""
        home = sys.modules[type(attention).__module__]
        self._attend = home.eager_attention_forward
        self._patch = mock.patch.object(home, "eager_attention_forward", self._catch)

    def __enter__(self) -> _Queries:
        self._patch.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._patch.stop()

    def _catch(self, module: nn.Module, query: Tensor, *args: Any, **options: Any) -> Any:
        self.rotated = query
        return self._attend(module, query, *args, **options)


class _OneLayerCache:
    """Stands where transformers' cache stands, for one layer, and remembers what is new."""

    def __init__(self, key: Tensor, value: Tensor, head_dim: int) -> None:
        self._past = [_heads(part, head_dim) for part in (key, value)]
        self.new_key = self.new_value = key

    def update(self, key: Tensor, value: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Append `[B, G, S, D]` and return all."""
        self.new_key, self.new_value = key, value
        past_key, past_value = self._past
        return torch.cat([past_key, key], dim=2), torch.cat([past_value, value], dim=2)


def _rank(given: Mapping[str, Tensor]) -> Tensor:
    """Count singular values, row by row of the batch, without raters that only fill it up."""
    rows = zip(given["rater_attention"].mean(dim=1), given["rater_weights"] > 0, strict=True)
    return torch.stack([torch.linalg.matrix_rank(seen[votes]) for seen, votes in rows])


def _prune(
    method: Method, given: Mapping[str, Tensor], outputs: Mapping[str, Array]
) -> dict[str, Tensor]:
    """Score as asked, then lay the next sequence for the decision that the graph took."""
    scores = visual_scores(given["rater_attention"], given["rater_weights"])
    kept, candidates = outputs["kept_index"], outputs["merge_candidates"]
    order = np.concatenate([kept, candidates], axis=1)  # [B, K+M]
    # Falling scores in that order make the step decide the same; cells are no decision.
    ranked = np.zeros(scores.shape, np.float32)
    places = np.arange(order.shape[1], 0, -1).astype(np.float32)
    falling = np.broadcast_to(places, order.shape)
    np.put_along_axis(ranked, order.clip(0, scores.shape[1] - 1), falling, axis=1)
    decided = scores if method.pools else torch.from_numpy(ranked)
    pruned = step_of(method)(
        given["hidden_states"],
        given["position_ids"],
        decided[:, None, None],
        torch.ones(len(scores), 1),
        given["prefix_length"],
        given["num_kept"],
        given["original_positions"],
    )
    return {
        "next_hidden_states": pruned.next_hidden_states,
        "next_position_ids": pruned.next_position_ids,
        "visual_scores": scores,
    }


def _tensor(value: Array) -> Tensor:
    """An array as a tensor; half precision widened."""
    return torch.from_numpy(value.astype(np.float32) if value.dtype.kind == "f" else value)


def _heads(flat: Tensor, head_dim: int) -> Tensor:
    """`[B, L, G*D]` to `[B, G, L, D]`."""
    batch, length, width = flat.shape
    return flat.reshape(batch, length, width // head_dim, head_dim).transpose(1, 2)


def _rows(heads: Tensor) -> Tensor:
    """`[B, G, S, D]` to `[B, S, G*D]`."""
    return heads.transpose(1, 2).flatten(2)


def _mask(num_new: int, num_past: int, past_lengths: Tensor) -> Tensor:
    """Additive mask `[B, 1, S, L+S]`: the valid cache, and what came before in this call."""
    column = torch.arange(num_past + num_new)
    cached = column < past_lengths[:, None, None, None]
    own = (column >= num_past) & (column - num_past <= torch.arange(num_new)[:, None])
    return torch.where(cached & (column < num_past) | own, 0.0, torch.finfo(torch.float32).min)
