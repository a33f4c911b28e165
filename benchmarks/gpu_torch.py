"""The other side of the GPU benchmark: transformers' own model, unpruned, eager, with SDPA."""

from __future__ import annotations

import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import GenerationConfig, LlavaConfig, LlavaForConditionalGeneration


class TorchModel:
    """A LLaVA on a device."""

    def __init__(self, model: Any, device: str) -> None:
        """Take a model, and move it."""
        self.device = device
        self.model = model.to(device).eval()

    @classmethod
    def of_shape(cls, config: LlavaConfig, device: str) -> TorchModel:
        """A model of this shape, initialised at random where it will run, float16."""
        with torch.device(device):
            model = LlavaForConditionalGeneration._from_config(
                config, dtype=torch.float16, attn_implementation="sdpa"
            )
        return cls(model, device)

    @classmethod
    def load(cls, checkpoint: Path, device: str, dtype: str) -> TorchModel:
        """A checkpoint's model."""
        model = LlavaForConditionalGeneration.from_pretrained(
            checkpoint,
            dtype=getattr(torch, dtype),
            attn_implementation="sdpa",
            local_files_only=True,
        )
        return cls(model, device)

    @torch.inference_mode()
    def timed(self, num_text: int, num_visual: int, steps: int, batch: int) -> dict[str, float]:
        """Milliseconds of vision, prefill and the median decode step, on noise."""
        model, config = self.model, self.model.config
        tower, language = config.vision_config, model.model.language_model
        generator = torch.Generator().manual_seed(0)
        sides = (batch, 3, tower.image_size, tower.image_size)
        pixels = torch.randn(sides, generator=generator).to(self.device, model.dtype)
        words = torch.randint(1, 32000, (batch, num_text), generator=generator).to(self.device)
        started = self._now()
        outputs = model.get_image_features(pixel_values=pixels, return_dict=True)
        features = torch.stack(list(outputs.pooler_output))
        vision_ms = (self._now() - started) * 1e3
        embeds = torch.cat([model.get_input_embeddings()(words), features], dim=1)
        assert features.shape[1] == num_visual
        started = self._now()
        read = language(inputs_embeds=embeds, use_cache=True)
        token = model.lm_head(read.last_hidden_state[:, -1]).argmax(dim=-1)
        prefill_ms = (self._now() - started) * 1e3
        times = []
        for _ in range(steps):
            started = self._now()
            read = language(
                input_ids=token[:, None], past_key_values=read.past_key_values, use_cache=True
            )
            token = model.lm_head(read.last_hidden_state[:, -1]).argmax(dim=-1)
            times.append((self._now() - started) * 1e3)
        return {
            "vision_ms": vision_ms,
            "prefill_ms": prefill_ms,
            "decode_ms": statistics.median(times),
        }

    @torch.inference_mode()
    def generate(
        self, ids: np.ndarray, pixels: np.ndarray, num_tokens: int
    ) -> tuple[list[int], np.ndarray]:
        """Greedy tokens by transformers' `generate`, and the logits of each `[tokens, vocab]`."""
        # In place of the model's own: one that is passed takes the end tokens from there.
        self.model.generation_config = GenerationConfig(
            max_new_tokens=num_tokens,
            do_sample=False,
            eos_token_id=None,
            pad_token_id=0,
            output_logits=True,
            return_dict_in_generate=True,
        )
        made = self.model.generate(
            input_ids=torch.from_numpy(ids).to(self.device),
            attention_mask=torch.ones(ids.shape, dtype=torch.int64, device=self.device),
            pixel_values=torch.from_numpy(pixels).to(self.device, self.model.dtype),
        )
        tokens: list[int] = made.sequences[0, -num_tokens:].tolist()
        return tokens, torch.cat(list(made.logits)).float().cpu().numpy()

    def _now(self) -> float:
        """The time, when all that was asked of the device is done."""
        if self.device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()
