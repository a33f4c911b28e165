"""The checkpoint as transformers runs it: the other side of every comparison.

Always float32. For a float16 bundle the weights are first rounded to float16, as the export
rounds them: the rounding of weights was asked for and is the same on both sides, so what remains
is the error of the bundle's own arithmetic. PyTorch's half-precision arithmetic on a CPU rounds in
its own places, and would be a second party with an error, not a reference.

Dims: S tokens, N hidden size, P prefix tokens, I images.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    GenerationConfig,
    LlavaForConditionalGeneration,
)
from transformers.utils import logging

from sparsevlm_trt.export.checkpoint import Checkpoint
from sparsevlm_trt.export.parity.prompts import ParityPrompt
from sparsevlm_trt.runtime.errors import ParityError
from sparsevlm_trt.runtime.manifest import Manifest

__all__ = ["ReferenceModel"]


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
        loader: Any = AutoModelForCausalLM
        if manifest.model.model_type == "llava":
            loader = LlavaForConditionalGeneration
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
    def image_features(self, pixel_values: Tensor) -> Tensor:
        """Pixels `[I, 3, h, w]` to image features `[I, V, N]`."""
        outputs = self.model.get_image_features(pixel_values=pixel_values, return_dict=True)
        return torch.stack(list(outputs.pooler_output))

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
        if prompt.embeds is not None:
            return torch.from_numpy(prompt.embeds.astype(np.float32))[None]
        assert prompt.ids is not None
        assert prompt.pixels is not None
        start = prompt.layout.prefix
        words = self.embed(torch.from_numpy(prompt.ids)[None])[0]
        features = self.image_features(torch.from_numpy(prompt.pixels)).flatten(0, 1)
        # One placeholder stands for the block of one image.
        return torch.cat([words[:start], features, words[start + 1 :]])[None]

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
        inputs: dict[str, Tensor]
        if prompt.embeds is not None:
            inputs = {"inputs_embeds": self.prompt_embeds(prompt)}
            length = prompt.layout.length
        else:
            assert prompt.ids is not None
            assert prompt.pixels is not None
            start, count = prompt.layout.prefix, prompt.layout.num_visual
            ids = prompt.ids
            block = np.full(count, ids[start])
            spread = np.concatenate([ids[:start], block, ids[start + 1 :]])[None]
            inputs = {
                "input_ids": torch.from_numpy(spread),
                "pixel_values": torch.from_numpy(prompt.pixels),
            }
            length = spread.shape[1]
        mask = torch.ones(1, length, dtype=torch.int64)
        made = self.model.generate(**inputs, attention_mask=mask)
        tokens = made.sequences[0, -num_tokens:].tolist()
        return tokens, torch.cat(list(made.logits)).float().numpy()


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
