"""Low-rank adapters on language model and tower, and the file that carries what was trained."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import LlavaForConditionalGeneration

TARGETS = {
    "language_model": (
        *("q_proj", "k_proj", "v_proj", "o_proj"),
        *("gate_proj", "up_proj", "down_proj"),
    ),
    "vision_tower": ("q_proj", "k_proj", "v_proj", "o_proj", "fc1", "fc2"),
}


class LoRALinear(nn.Module):
    """A frozen linear layer plus `scale * up @ down`, which starts at zero.

    Attributes:
        down: `[rank, in]`, float32.
        up: `[out, rank]`, float32.
    """

    def __init__(self, base: nn.Linear, rank: int, scale: float) -> None:
        """Wrap `base`; its own weights no longer learn."""
        super().__init__()
        self.base = base.requires_grad_(False)
        self.scale = scale
        self.down = nn.Parameter(torch.empty(rank, base.in_features))
        self.up = nn.Parameter(torch.zeros(base.out_features, rank))
        nn.init.normal_(self.down, std=base.in_features**-0.5)

    def forward(self, x: Tensor) -> Tensor:
        """Map `[..., in]` to `[..., out]` in the type of `x`."""
        low = nn.functional.linear(x, (self.scale * self.down).to(x.dtype))
        return self.base(x) + nn.functional.linear(low, self.up.to(x.dtype))

    def merged_weight(self) -> Tensor:
        """Return the weight `[out, in]`, float32, of the one linear layer that does the same."""
        return self.base.weight.float() + self.scale * (self.up.float() @ self.down.float())


@dataclass(frozen=True, slots=True)
class DeltaInfo:
    """What a weights file says about itself.

    Attributes:
        num_visual: Visual tokens per image it was trained with.
        rank: Rank of every adapter.
        scale: Factor of `up @ down`.
        images: Training images seen so far, all phases together.
    """

    num_visual: int
    rank: int
    scale: float
    images: int


def add_lora(model: nn.Module, rank: int, scale: float) -> dict[str, LoRALinear]:
    """Put an adapter on each linear layer of language model and tower; return them by path.

    Args:
        model: The VLM without its output layer, `LlavaForConditionalGeneration.model`.
        rank: Of every adapter.
        scale: Factor of `up @ down`.
    """
    added = {}
    for part, targets in TARGETS.items():
        for path, module in list(model.get_submodule(part).named_modules(prefix=part)):
            name = path.rpartition(".")[2]
            if isinstance(module, nn.Linear) and name in targets:
                parent = model.get_submodule(path.rpartition(".")[0])
                added[path] = LoRALinear(module, rank, scale)
                setattr(parent, name, added[path])
    return added


def save_delta(
    path: Path, projector: nn.Module, adapters: dict[str, LoRALinear], info: DeltaInfo
) -> None:
    """Write projector and adapters as bfloat16, atomically."""
    tensors = {f"projector.{name}": value for name, value in projector.state_dict().items()}
    for name, adapter in adapters.items():
        tensors[f"lora.{name}.down"] = adapter.down
        tensors[f"lora.{name}.up"] = adapter.up
    stored = {k: v.detach().to(torch.bfloat16).contiguous() for k, v in tensors.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    save_file(stored, partial, metadata={"digits-vlm": json.dumps(asdict(info), sort_keys=True)})
    partial.chmod(0o644)  # safetensors makes it private
    partial.replace(path)


def read_delta(path: Path) -> tuple[DeltaInfo, dict[str, Tensor]]:
    """Read a weights file: its description and its tensors, float32.

    Raises:
        ValueError: The file was not written by `save_delta`.
    """
    with safe_open(path, "pt") as file:
        metadata = file.metadata() or {}
        if "digits-vlm" not in metadata:
            raise ValueError(
                f"{path.name} | got metadata {sorted(metadata)} | expected `digits-vlm` | "
                "pass a file that train.py wrote"
            )
        tensors = {key: file.get_tensor(key).float() for key in file.keys()}  # noqa: SIM118
    return DeltaInfo(**json.loads(metadata["digits-vlm"])), tensors


def load_delta(
    tensors: dict[str, Tensor], projector: nn.Module, adapters: dict[str, LoRALinear]
) -> None:
    """Copy the tensors of a weights file into a model that is being trained.

    Raises:
        ValueError: The file's adapters are not the model's.
    """
    wanted = {f"lora.{name}.{part}" for name in adapters for part in ("down", "up")}
    found = {key for key in tensors if key.startswith("lora.")}
    if wanted != found:
        raise ValueError(
            f"adapters | got {len(found)} tensors, {len(wanted & found)} of them known | expected "
            f"{len(wanted)} | use the weights of this model"
        )
    prefix = "projector."
    projector.load_state_dict(
        {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
    )
    with torch.no_grad():
        for name, adapter in adapters.items():
            adapter.down.copy_(tensors[f"lora.{name}.down"])
            adapter.up.copy_(tensors[f"lora.{name}.up"])


def merge_delta(
    model: LlavaForConditionalGeneration, info: DeltaInfo, tensors: dict[str, Tensor]
) -> None:
    """Write projector and merged adapters into a plain model, in place, in its own type."""
    adapters = add_lora(model.model, info.rank, info.scale)
    load_delta(tensors, model.model.multi_modal_projector, adapters)
    with torch.no_grad():
        for path, adapter in adapters.items():
            adapter.base.weight.copy_(adapter.merged_weight())
            parent, _, name = path.rpartition(".")
            setattr(model.model.get_submodule(parent), name, adapter.base)
