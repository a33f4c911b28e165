"""Hugging Face transformers in `sparsevlm bench`: the unpruned model, as it ships."""

from __future__ import annotations

import statistics
import time
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from transformers import AutoModelForImageTextToText

from sparsevlm_trt.runtime.bench.machine import grown_bytes, resident_bytes

if TYPE_CHECKING:
    from sparsevlm_trt.runtime.bench.case import Case

__all__ = ["HfContender"]


class HfContender:
    """A checkpoint's own model with scaled dot product attention; sees no picture of ours.

    Its time does not depend on values: pixels and embeddings are random, of the bundle's sizes.
    """

    def __init__(
        self, checkpoint: Path, dtype: str, num_tokens: int, image_size: tuple[int, int] | None
    ) -> None:
        """Load the model.

        Args:
            checkpoint: Its folder.
            dtype: "float32" or "bfloat16".
            num_tokens: Length of the prompt, visual tokens included.
            image_size: Height and width of an image, if the model sees.
        """
        before, started = resident_bytes(), time.perf_counter()
        kind = getattr(torch, dtype)
        self._model = AutoModelForImageTextToText.from_pretrained(
            checkpoint, dtype=kind, attn_implementation="sdpa"
        ).eval()
        self.load_ms = (time.perf_counter() - started) * 1e3
        self.load_bytes = grown_bytes(before)
        hidden = self._model.get_input_embeddings().weight.shape[1]
        self._embeds = torch.randn(1, num_tokens, hidden, dtype=kind) * 0.1
        self._hidden, self._kind = hidden, kind
        self._pixels = torch.randn(1, 3, *image_size, dtype=kind) if image_size else None

    @torch.inference_mode()
    def sample(self, case: Case, num_steps: int) -> dict[str, float]:
        """Read the prompt and decode; the language model apart from the vision tower."""
        vision_ms, embeds = 0.0, self._embeds
        if case.shape is not None:
            size = (case.shape.batch, case.shape.num_visual + case.shape.num_text, self._hidden)
            embeds = torch.randn(size, dtype=self._kind) * 0.1
        elif self._pixels is not None:
            started = time.perf_counter()
            self._model.get_image_features(pixel_values=self._pixels)
            vision_ms = (time.perf_counter() - started) * 1e3
        started = time.perf_counter()
        out = self._model(inputs_embeds=embeds, use_cache=True, logits_to_keep=1)
        token = out.logits[:, -1:].argmax(dim=-1)
        language_ms = (time.perf_counter() - started) * 1e3
        steps = []
        for _ in range(num_steps):
            started = time.perf_counter()
            out = self._model(input_ids=token, past_key_values=out.past_key_values, use_cache=True)
            token = out.logits[:, -1:].argmax(dim=-1)
            steps.append((time.perf_counter() - started) * 1e3)
        config = self._model.config.get_text_config()
        size = getattr(config, "head_dim", None) or (
            config.hidden_size // config.num_attention_heads
        )
        entry = 2 * config.num_hidden_layers * config.num_key_value_heads * size
        batch, length = embeds.shape[0], embeds.shape[1] + num_steps
        return {
            "first_token_ms": vision_ms + language_ms,
            "vision_ms": vision_ms,
            "language_ms": language_ms,
            "decode_ms": statistics.median(steps),
            "tokens_per_s": batch * 1e3 / statistics.median(steps),
            "kv_bytes": float(entry * batch * length * embeds.element_size()),
            "num_tokens": float(embeds.shape[1]),
        }
