"""The model while it learns: a trained projector, adapters on tower and language model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import attention
import numpy as np
import torch
from base_weights import assemble
from data import IMAGE_SIZE, Scene
from lora import DeltaInfo, add_lora, load_delta, read_delta, save_delta
from packing import IGNORED, PackedBatch, pack
from PIL import Image
from processor import IMAGENET_MEAN, IMAGENET_STD, SIDES, build_tokenizer
from tokenizers import Tokenizer
from torch import Tensor, nn
from transformers import LlavaForConditionalGeneration

RANK = 12
SCALE = 2.0
MASKED = -1e9  # added to a score that must not count


class Trainee:
    """Model, tokenizer and adapters, in `working_type` except for what learns (float32)."""

    def __init__(
        self,
        model: LlavaForConditionalGeneration,
        tokenizer: Tokenizer,
        num_visual: int,
        rank: int = RANK,
        device: str = "cpu",
    ) -> None:
        """Freeze the model, cast it, and put adapters on it."""
        torch.manual_seed(0)
        self.num_visual = num_visual
        self.tokenizer = tokenizer
        self.device = torch.device(device)
        self.dtype = working_type(self.device)
        self.model = model.requires_grad_(False).to(self.dtype)
        self.projector = self.model.model.multi_modal_projector.float().requires_grad_(True)
        self.language = self.model.model.language_model
        self.adapters = add_lora(self.model.model, rank, SCALE)
        self.rank = rank
        self.language.set_attn_implementation(attention.NAME)
        self.model.to(self.device)

    @classmethod
    def from_packages(cls, num_visual: int, cache: Path, device: str = "cpu") -> Trainee:
        """Assemble the untrained model from the public packages."""
        model, tokenizer = assemble(num_visual, cache), build_tokenizer(cache)
        return cls(model, tokenizer, num_visual, device=device)

    def share(self, other: Trainee) -> None:
        """Use the projector and the adapters of another trainee, of whatever resolution."""
        self.model.model.multi_modal_projector = self.projector = other.projector
        for path, adapter in self.adapters.items():
            adapter.down, adapter.up = other.adapters[path].down, other.adapters[path].up

    @property
    def embeddings(self) -> Tensor:
        """Word embeddings `[vocabulary, hidden]`; also the output layer."""
        return self.language.embed_tokens.weight

    def parameters_of(self, part: str) -> list[nn.Parameter]:
        """List the adapters of "language_model" or "vision_tower", in a fixed order."""
        chosen = [a for path, a in self.adapters.items() if path.startswith(part)]
        return [parameter for a in chosen for parameter in (a.down, a.up)]

    def see(self, scenes: Sequence[Scene]) -> Tensor:
        """Run the tower: `[B, V, 384]` float32, the last layer's output without CLS."""
        pixels = torch.stack([pixel_values(scene.image, self.num_visual) for scene in scenes])
        pixels = pixels.to(self.device, self.dtype)
        out = self.model.model.vision_tower(pixels, output_hidden_states=True)
        return out.hidden_states[-1][:, 1:].float()

    def answer_logits(self, seen: Tensor, batch: PackedBatch) -> tuple[Tensor, Tensor]:
        """Predict every answer token.

        Args:
            seen: Embeddings of the visual tokens shown, `[B, K, hidden]`: the projector's
                output, or what stands in for it.
            batch: The packed questions.

        Returns:
            Logits `[answers, vocabulary]` and their targets `[answers]`.
        """
        mask = torch.zeros_like(batch.mask, dtype=self.embeddings.dtype)
        mask.masked_fill_(~batch.mask, MASKED)
        words = nn.functional.embedding(batch.input_ids, self.embeddings)
        first = int((batch.input_ids[0] == self.model.config.image_token_id).nonzero()[0])
        embeds = torch.cat(
            [words[:, :first], seen.to(words.dtype), words[:, first + seen.shape[1] :]], dim=1
        )
        hidden = self.language(
            inputs_embeds=embeds,
            attention_mask=mask,
            position_ids=batch.position_ids,
            use_cache=False,
        ).last_hidden_state
        asked = batch.targets != IGNORED
        return hidden[asked] @ self.embeddings.T, batch.targets[asked]

    def pack(
        self,
        scenes: Sequence[Scene],
        chosen: Sequence[Sequence[int]],
        kept: Sequence[Sequence[int]] | None = None,
    ) -> PackedBatch:
        """Pack the chosen questions (indices) of each scene, over all or the kept tokens."""
        pairs = [
            [(scene.questions[i].text, scene.questions[i].answer) for i in indices]
            for scene, indices in zip(scenes, chosen, strict=True)
        ]
        shown = kept or [range(self.num_visual)] * len(scenes)
        return pack(pairs, shown, self.num_visual, self.tokenizer).to(self.device)

    def save(self, path: Path, images: int) -> None:
        """Write what was learnt."""
        info = DeltaInfo(self.num_visual, self.rank, SCALE, images)
        save_delta(path, self.projector, self.adapters, info)

    def load(self, path: Path) -> int:
        """Take up what was learnt, at this or another number of visual tokens; return images."""
        info, tensors = read_delta(path)
        load_delta(tensors, self.projector, self.adapters)
        return info.images


def working_type(device: torch.device) -> torch.dtype:
    """Return the type to train in: bfloat16, but float32 where a processor only imitates it.

    Measured on a Xeon with AVX-512 and no bfloat16 units: products in bfloat16 reach a quarter
    of the speed of those in float32.
    """
    if device.type != "cpu":
        return torch.bfloat16
    units = torch.cpu.get_capabilities()
    has_units = any(units.get(name, False) for name in ("avx512_bf16", "amx_bf16", "bf16"))
    return torch.bfloat16 if has_units else torch.float32


def pixel_values(image: Image.Image, num_visual: int) -> Tensor:
    """Prepare a square picture `[3, side, side]`, float32, as the image processor does."""
    side = SIDES[num_visual]
    if side != IMAGE_SIZE:
        image = image.resize((side, side), Image.Resampling.BICUBIC)
    scaled = np.asarray(image, np.float32) / 255
    normal = (scaled - np.array(IMAGENET_MEAN, np.float32)) / np.array(IMAGENET_STD, np.float32)
    return torch.from_numpy(normal).permute(2, 0, 1).contiguous()


@torch.no_grad()
def evaluate(
    trainee: Trainee,
    scenes: Sequence[Scene],
    chosen: Sequence[Sequence[int]],
    is_shuffled: bool = False,
    batch_size: int = 4,
) -> dict[str, tuple[int, int]]:
    """Ask the chosen questions of every scene; return (right, asked) for each kind.

    A right answer is one that greedy decoding would give token for token, end included: each
    question stands alone (see `packing`), so checking the best token at every position of the
    reference answer is the same as decoding.

    Args:
        trainee: The model.
        scenes: Held-out scenes.
        chosen: Indices of the questions asked of each.
        is_shuffled: Show another scene's picture instead of the right one (the control).
        batch_size: Pictures per forward pass.
    """
    tally: dict[str, tuple[int, int]] = {}
    for start in range(0, len(scenes), batch_size):
        group, asking = scenes[start : start + batch_size], chosen[start : start + batch_size]
        batch = trainee.pack(group, asking)
        features = trainee.see(group)
        seen = trainee.projector(features.roll(1, 0) if is_shuffled else features)
        logits, targets = trainee.answer_logits(seen, batch)
        asked = batch.targets != IGNORED
        is_right = torch.zeros_like(asked)
        is_right[asked] = logits.argmax(-1) == targets
        for row, (scene, indices) in enumerate(zip(group, asking, strict=True)):
            for number, index in enumerate(indices, start=1):
                mine = (batch.segments[row] == number) & asked[row]
                kind = scene.questions[index].kind
                right, total = tally.get(kind, (0, 0))
                tally[kind] = (right + int(is_right[row][mine].all()), total + 1)
    return tally
