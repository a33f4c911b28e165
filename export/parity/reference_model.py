"""The checkpoint as transformers runs it: the other side of every comparison.

Always float32. For a float16 bundle the weights are first rounded to float16, as the export
rounds them: the rounding of weights was asked for and is the same on both sides, so what remains
is the error of the bundle's own arithmetic. PyTorch's half-precision arithmetic on a CPU rounds in
its own places, and would be a second party with an error, not a reference.

Dims: S tokens, N hidden size.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    GenerationConfig,
)
from transformers.utils import logging

from sparsevlm_trt.export.checkpoint import Checkpoint
from sparsevlm_trt.export.parity.hf_inputs import hf_inputs
from sparsevlm_trt.export.parity.prompts import ParityPrompt
from sparsevlm_trt.runtime.errors import ParityError
from sparsevlm_trt.runtime.manifest import Manifest

__all__ = ["PromptInputs", "ReferenceModel"]


@dataclass(frozen=True, slots=True, eq=False)
class PromptInputs:
    """A prompt as the decoder is given it.

    Attributes:
        embeds: `[1, S, N]`.
        positions: `[1, S, 3]` where a token has three, else None.
        deepstack: What its first k layers add, `[1, S, k*N]`, where the vision tower feeds them.
    """

    embeds: Tensor
    positions: Tensor | None = None
    deepstack: Tensor | None = None


class ReferenceModel:
    """A checkpoint's model with eager attention, which shows its probabilities.

    Attributes:
        model: The whole model.
        decoder: Its language model: `layers`, `norm`, `rotary_emb`.
    """

    def __init__(self, checkpoint: str | Path, manifest: Manifest) -> None:
        """Load the checkpoint of a bundle.

        Raises:
            ExportError: The checkpoint is missing or damaged.
            ParityError: The bundle was made of another model.
        """
        source = Checkpoint(checkpoint)
        _check_same_model(source, manifest)
        loader: Any = AutoModelForImageTextToText if manifest.vision else AutoModelForCausalLM
        with _no_progress_bar():
            self.model: Any = loader.from_pretrained(
                source.path,
                dtype=torch.float32,
                attn_implementation="eager",
                local_files_only=True,
            ).eval()
        if manifest.model.dtype == "float16":
            for parameter in self.model.parameters():
                parameter.data = parameter.data.half().float()
        self.decoder: Any = self.model.get_decoder()

    @torch.no_grad()
    def embed(self, input_ids: Tensor) -> Tensor:
        """Token ids `[B, S]` to embeddings `[B, S, N]`."""
        embeds: Tensor = self.model.get_input_embeddings()(input_ids)
        return embeds

    @torch.no_grad()
    def logits(self, hidden: Tensor) -> Tensor:
        """Hidden states `[B, N]` before the final norm to logits `[B, vocab]`."""
        logits: Tensor = self.model.get_output_embeddings()(self.decoder.norm(hidden))
        return logits

    def prompt_embeds(self, prompt: ParityPrompt) -> Tensor:
        """The prompt as the first layer sees it, `[1, S, N]`."""
        return self.prompt_inputs(prompt).embeds

    @torch.no_grad()
    def prompt_inputs(self, prompt: ParityPrompt) -> PromptInputs:
        """The prompt as the decoder sees it, by transformers' own `forward`."""
        if prompt.embeds is not None:
            return PromptInputs(torch.from_numpy(prompt.embeds.astype(np.float32))[None])
        hook = self.decoder.register_forward_pre_hook(_catch, with_kwargs=True)
        try:
            self.model(**self._inputs(prompt))
        except _CaughtError as caught:
            return caught.inputs
        finally:
            hook.remove()
        raise AssertionError("transformers' model did not call its decoder")

    @torch.no_grad()
    def generate(self, prompt: ParityPrompt, num_tokens: int) -> tuple[list[int], np.ndarray]:
        """Greedy tokens by transformers' own `generate`, and their logits `[tokens, vocab]`."""
        self.model.generation_config = GenerationConfig(
            max_new_tokens=num_tokens,
            do_sample=False,
            eos_token_id=None,
            pad_token_id=0,
            output_logits=True,
            return_dict_in_generate=True,
        )
        if prompt.embeds is not None:
            inputs = {"inputs_embeds": self.prompt_embeds(prompt)}
        else:
            inputs = self._inputs(prompt)
        mask = torch.ones(1, prompt.layout.length, dtype=torch.int64)
        made = self.model.generate(**inputs, attention_mask=mask)
        tokens = made.sequences[0, -num_tokens:].tolist()
        return tokens, torch.cat(list(made.logits)).float().numpy()

    def _inputs(self, prompt: ParityPrompt) -> dict[str, Tensor]:
        """A prompt of text and images in transformers' own arrays."""
        assert prompt.ids is not None
        pixels = hf_inputs(self.model.config.model_type, prompt.visuals)
        ids = torch.from_numpy(prompt.ids)[None]
        config = self.model.config
        if any(name.endswith("_grid_thw") for name in pixels):
            # What tells text from images and videos, where positions depend on it.
            kinds = (ids == config.image_token_id) + 2 * (ids == config.video_token_id)
            pixels["mm_token_type_ids"] = kinds.to(torch.int32)
        return {"input_ids": ids, **pixels}


class _CaughtError(Exception):
    """Carries what the decoder was called with: nothing after it need be run."""

    def __init__(self, inputs: PromptInputs) -> None:
        super().__init__()
        self.inputs = inputs


def _catch(_decoder: Any, _args: Any, given: dict[str, Any]) -> None:
    embeds, positions = given["inputs_embeds"], given.get("position_ids")
    if positions is not None:
        positions = positions.permute(1, 2, 0) if positions.dim() == 3 else None
    deepstack = None
    if given.get("deepstack_visual_embeds") is not None:
        layers = given["deepstack_visual_embeds"]
        deepstack = embeds.new_zeros(*embeds.shape[:2], len(layers) * embeds.shape[2])
        deepstack[given["visual_pos_masks"]] = torch.cat(layers, dim=1)
    raise _CaughtError(PromptInputs(embeds, positions, deepstack))


def _check_same_model(source: Checkpoint, manifest: Manifest) -> None:
    """Refuse a checkpoint that cannot be the one the bundle was made of."""
    config, model = source.config, manifest.model
    text = getattr(config, "text_config", config)
    pairs = [
        ("model_type", config.model_type, model.model_type),
        ("layers", text.num_hidden_layers, model.num_layers),
        ("hidden size", text.hidden_size, model.hidden_size),
        ("vocabulary", text.vocab_size, model.vocab_size),
    ]
    wrong = [f"{name} {got} (bundle: {bundle})" for name, got, bundle in pairs if got != bundle]
    if wrong:
        raise ParityError(
            f"checkpoint {source.path} | got {', '.join(wrong)} | expected the model that the "
            f"bundle was made of, {model.source!r} | give that checkpoint"
        )


@contextmanager
def _no_progress_bar() -> Iterator[None]:
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()
