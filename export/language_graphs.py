"""The graphs of a language model: embed, raters and their rows, stages, judges, prune, head."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn
from transformers import PretrainedConfig

from sparsevlm_ops.gravity import gravity_weights
from sparsevlm_ops.methods import Step
from sparsevlm_ops.prune import Pruned
from sparsevlm_ops.steps import scaled_step
from sparsevlm_trt.export.checkpoint import Checkpoint
from sparsevlm_trt.export.decision_modules import Gravity, Prune, Rank, RaterRows, Raters
from sparsevlm_trt.export.decoder_config import DecoderConfig, rotary_frequencies
from sparsevlm_trt.export.decoder_layer import Projection
from sparsevlm_trt.export.deepstack_stage import DeepstackStage
from sparsevlm_trt.export.embed_head import Embed, Head
from sparsevlm_trt.export.graph_module import GraphModule, WeightSource
from sparsevlm_trt.export.residual import weight_scale
from sparsevlm_trt.export.stage import Stage
from sparsevlm_trt.runtime.errors import ExportError
from sparsevlm_trt.runtime.graph_spec import StageSpec

__all__ = ["LanguageGraphs"]

# Sizes of the example tensors: all different, and none of them 1, so that the tracer takes no
# two dims for one and specialises on none.
_BATCH, _NEW, _PAST, _RATERS, _VISUAL, _TEXT, _HEADS = 2, 37, 11, 5, 17, 9, 3

_TOKENS = {0: "batch", 1: "seq_len"}
_ROWS = {0: "batch", 2: "num_raters", 3: "num_visual"}  # of as many heads as the model has
_ATTENTION = {0: "batch", 1: "num_heads", 2: "num_raters", 3: "num_visual"}
_BY_RATER = {0: "batch", 1: "num_raters"}
_BY_VISUAL = {0: "batch", 1: "num_visual"}
_BODY_PREFIXES = ("language_model.model.", "model.language_model.", "model.text_model.", "model.")
_HEAD_PREFIXES = ("language_model.", "")


class LanguageGraphs:
    """Makes the graph modules of one language model.

    Args:
        checkpoint: Where the weights are.
        config: The language model's Hugging Face config.
        dtype: Model type, float32 or float16.
        num_deepstack: First layers whose outputs the vision tower feeds too.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        config: PretrainedConfig,
        dtype: torch.dtype,
        num_deepstack: int = 0,
    ) -> None:
        """Read the shape; nothing else yet."""
        self.checkpoint, self.dtype, self.num_deepstack = checkpoint, dtype, num_deepstack
        tied = not checkpoint.has("lm_head.weight", _HEAD_PREFIXES)
        declared = (checkpoint.config, config)  # a VLM's outer config, or the inner one, says so
        if tied and not any(getattr(each, "tie_word_embeddings", False) for each in declared):
            raise ExportError(
                f"checkpoint {checkpoint.path} | no tensor 'lm_head.weight' | expected one, as "
                "config.json ties no embeddings | the weights are incomplete: download them again"
            )
        self.config = DecoderConfig.from_hf(config, tied_head=tied)
        self._rotary = rotary_frequencies(config)

    def scale_residual(self, shift: int) -> None:
        """Keep hidden states between layers times 2^-shift; see `export/residual.py`."""
        self.config = replace(self.config, residual_shift=shift)

    def embed(self) -> GraphModule:
        """Token ids to embeddings."""
        source = self.checkpoint.resolve("embed_tokens.weight", _BODY_PREFIXES)
        return GraphModule(
            name="embed",
            module=Embed(self.config, self.dtype),
            inputs={"input_ids": torch.zeros(_BATCH, _NEW, dtype=torch.int64)},
            dynamic={"input_ids": _TOKENS},
            outputs=("inputs_embeds",),
            output_axes={"inputs_embeds": _TOKENS},
            weights={"weight": WeightSource(source)},
        )

    def raters(self) -> GraphModule:
        """Which text tokens judge the visual ones."""
        axes = {0: "batch", 1: "num_text"}
        return GraphModule(
            name="raters",
            module=Raters(),
            inputs={
                "visual_embeds": self._hidden(_VISUAL),
                "text_embeds": self._hidden(_TEXT),
            },
            dynamic={"visual_embeds": {0: "batch", 1: "num_visual"}, "text_embeds": axes},
            outputs=("rater_scores", "rater_mask"),
            output_axes={"rater_scores": axes, "rater_mask": axes},
        )

    def rater_rows(self) -> GraphModule:
        """What the raters see at a boundary: one graph for all stages, for a prefill alone."""
        return GraphModule(
            name="rater_rows",
            module=RaterRows(self.config.num_heads, self.config.num_kv_heads),
            inputs={
                "queries": self._heads(self.config.num_heads),
                "keys": self._heads(self.config.num_kv_heads),
                "rater_index": torch.zeros(_BATCH, _RATERS, dtype=torch.int64),
                "visual_index": torch.zeros(_BATCH, _VISUAL, dtype=torch.int64),
            },
            dynamic={
                "queries": _TOKENS,
                "keys": _TOKENS,
                "rater_index": _BY_RATER,
                "visual_index": _BY_VISUAL,
            },
            outputs=("rater_attention",),
            output_axes={"rater_attention": _ROWS},
        )

    def stage(self, spec: StageSpec) -> GraphModule:
        """Decoder layers `[first, stop)`; queries and keys too unless the stage is the last."""
        shows = spec.stop < self.config.num_layers
        layers = range(spec.first, spec.stop)
        num_deepstack = self.num_deepstack if spec.first == 0 else 0
        kind = DeepstackStage if num_deepstack else Stage
        module = kind(self.config, layers, self._rotary, self.dtype, shows)
        kv_size = self.config.num_kv_heads * self.config.head_dim
        past_names = _kv_names("past_key_values", layers)
        new_names = _kv_names("new_key_values", layers)
        inputs: dict[str, Tensor | list[Tensor]] = {
            "hidden_states": self._hidden(_NEW),
            "position_ids": self._positions(),
            "past_lengths": torch.full((_BATCH,), _PAST),
            # One tensor each: the tracer takes the same tensor twice for one input.
            "past_key_values": [
                torch.zeros(_BATCH, _PAST, kv_size, dtype=self.dtype) for _ in past_names
            ],
        }
        dynamic = {
            "hidden_states": _TOKENS,
            "position_ids": _TOKENS,
            "past_lengths": {0: "batch"},
            "past_key_values": {0: "batch", 1: "past_len"},
        }
        if num_deepstack:
            fed = self._hidden(_NEW).repeat(1, 1, num_deepstack)
            inputs = {"deepstack_features": fed, **inputs}
            dynamic["deepstack_features"] = _TOKENS
        shown = ("queries", "keys") if shows else ()
        outputs = ("last_hidden_state", *shown, *new_names)
        return GraphModule(
            name=spec.graph,
            module=module,
            inputs=inputs,
            dynamic=dynamic,
            outputs=outputs,
            output_axes=dict.fromkeys(outputs, _TOKENS),
            list_names={"past_key_values": past_names},
            weights=self._sources(module, _BODY_PREFIXES),
        )

    def rank(self) -> GraphModule:
        """How many independent things the raters look at, for a method that goes by it."""
        return GraphModule(
            name="rank",
            module=Rank(),
            inputs={
                "rater_attention": torch.rand(_BATCH, _HEADS, _RATERS, _VISUAL),
                "rater_weights": torch.ones(_BATCH, _RATERS),
            },
            dynamic={"rater_attention": _ATTENTION, "rater_weights": _BY_RATER},
            outputs=("rank",),
            output_axes={"rank": {0: "batch"}},
        )

    def gravity(self) -> GraphModule:
        """Scores corrected for distance, for a method that corrects."""
        table = gravity_weights(self._rotary[0], self.config.head_dim, self.config.max_position)
        return GraphModule(
            name="gravity",
            module=Gravity(table),
            inputs={
                "rater_attention": torch.rand(_BATCH, _HEADS, _RATERS, _VISUAL),
                "rater_weights": torch.ones(_BATCH, _RATERS),
                "rater_positions": torch.zeros(_BATCH, _RATERS, dtype=torch.int64),
                "visual_positions": torch.zeros(_BATCH, _VISUAL, dtype=torch.int64),
                "num_heads": torch.tensor([2]),
            },
            dynamic={
                "rater_attention": _ATTENTION,
                "rater_weights": _BY_RATER,
                "rater_positions": _BY_RATER,
                "visual_positions": _BY_VISUAL,
                "num_heads": {},
            },
            outputs=("corrected_attention",),
            output_axes={"corrected_attention": {0: "batch", 3: "num_visual"}},
        )

    def prune(self, step: Step) -> GraphModule:
        """A prune step: one graph for all boundaries and budgets, and all methods that take it."""
        attention = torch.rand(_BATCH, _HEADS, _RATERS, _VISUAL)
        return GraphModule(
            name=f"prune_{step}",
            module=Prune(scaled_step(step, self.config.residual_scale)),
            inputs={
                "hidden_states": self._hidden(_NEW),
                "position_ids": self._positions(),
                "rater_attention": attention,
                "rater_weights": torch.ones(_BATCH, _RATERS),
                "prefix_length": torch.tensor([4]),
                "num_kept": torch.tensor([7]),
                "original_positions": torch.tensor([0]),
            },
            dynamic={
                "hidden_states": _TOKENS,
                "position_ids": _TOKENS,
                "rater_attention": _ATTENTION,
                "rater_weights": _BY_RATER,
                "prefix_length": {},
                "num_kept": {},
                "original_positions": {},
            },
            outputs=Pruned._fields,
            output_axes={
                "next_hidden_states": {0: "batch", 1: "next_seq_len"},
                "next_position_ids": {0: "batch", 1: "next_seq_len"},
                "visual_scores": {0: "batch", 1: "num_visual"},
                "kept_index": {0: "batch", 1: "num_kept"},
                "merge_candidates": {0: "batch", 1: "num_candidates"},
            },
        )

    def head(self) -> GraphModule:
        """Final norm and logits of the last position."""
        if self.config.tied_head:
            source = self.checkpoint.resolve("embed_tokens.weight", _BODY_PREFIXES)
        else:
            source = self.checkpoint.resolve("lm_head.weight", _HEAD_PREFIXES)
        norm = self.checkpoint.resolve("norm.weight", _BODY_PREFIXES)
        return GraphModule(
            name="head",
            module=Head(self.config, self.dtype),
            inputs={"hidden_states": self._hidden(_NEW)[:, 0]},
            dynamic={"hidden_states": {0: "batch"}},
            outputs=("logits",),
            output_axes={"logits": {0: "batch"}},
            weights={"weight": WeightSource(source), "norm.weight": WeightSource(norm)},
        )

    def _positions(self) -> Tensor:
        axes = () if self.config.num_axes == 1 else (self.config.num_axes,)
        return torch.zeros(_BATCH, _NEW, *axes, dtype=torch.int64)

    def _heads(self, num_heads: int) -> Tensor:
        return torch.zeros(_BATCH, _NEW, num_heads * self.config.head_dim, dtype=self.dtype)

    def _hidden(self, length: int) -> Tensor:
        return torch.zeros(_BATCH, length, self.config.hidden_size, dtype=self.dtype)

    def _sources(self, module: nn.Module, prefixes: tuple[str, ...]) -> dict[str, WeightSource]:
        projections = {n: m for n, m in module.named_modules() if isinstance(m, Projection)}
        sources = {}
        for name, _ in module.named_parameters():
            owner, _, kind = name.rpartition(".")
            projection = projections.get(owner)
            stored = [name]
            if projection is not None and projection.parts:
                parent = owner.rpartition(".")[0]
                stored = [f"{parent}.{part}.{kind}" for part in projection.parts]
            first, *beside = [self.checkpoint.resolve(each, prefixes) for each in stored]
            transpose = projection is not None and kind == "weight"
            scale = weight_scale(name, self.config.residual_scale)
            sources[name] = WeightSource(first, transpose, tuple(beside), scale)
        return sources


def _kv_names(prefix: str, layers: Sequence[int]) -> tuple[str, ...]:
    return tuple(f"{prefix}.{layer}.{part}" for layer in layers for part in ("key", "value"))
