from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch

from sparsevlm_ops.reference import ReferenceResult, pruned_generate
from sparsevlm_ops.schedule import Schedule

CHECKOUT = Path(__file__).parents[2]
CARRIED = CHECKOUT / "tests" / "data" / "golden"
BESIDE = CHECKOUT.parent / "shared" / "golden"

# (case, checkpoint, budget)
GOLDEN_CASES = [
    ("v15_r128_gqa4_P5_V576_T9", "llama-gqa4", 128),
    ("v15_r64_gqa4_P35_V576_T53", "llama-gqa4", 64),
    ("v15_r96_mha_P5_V144_T9", "llama-mha", 96),
    ("v15_r192_mha_P35_V576_T53", "llama-mha", 192),
]


@dataclass(frozen=True)
class GoldenRun:
    """A case, its recorded arrays, and what our reference makes of it."""

    name: str
    arrays: dict[str, torch.Tensor]
    result: ReferenceResult

    def stage(self, index: int, array: str) -> torch.Tensor:
        return self.arrays[f"stage{index}_{array}"]


def find_golden(*parts: str) -> Path | None:
    for root in (CARRIED, BESIDE):
        if root.joinpath(*parts).exists():
            return root.joinpath(*parts)
    return None


@cache
def run_golden(name: str, checkpoint: str, budget: int) -> GoldenRun | str:
    transformers = pytest.importorskip("transformers")
    case = find_golden("cases", f"{name}.npz")
    weights = find_golden("checkpoints", checkpoint, "model.safetensors")
    if case is None or weights is None:
        what = f"cases/{name}.npz" if case is None else f"checkpoints/{checkpoint}"
        return f"{what} is neither in tests/data/golden nor in ../shared/golden"
    with np.load(case) as file:
        arrays = {key: torch.from_numpy(file[key]) for key in file.files}
    model = transformers.LlamaForCausalLM.from_pretrained(
        weights.parent, attn_implementation="eager"
    )
    embed = model.get_input_embeddings()
    with torch.no_grad():
        parts = (embed(arrays["prefix_ids"]), arrays["visual_embeds"], embed(arrays["suffix_ids"]))
    result = pruned_generate(
        model,
        torch.cat(parts)[None],
        prefix_length=len(arrays["prefix_ids"]),
        num_visual=len(arrays["visual_embeds"]),
        schedule=Schedule.from_budget(budget, model.config.num_hidden_layers),
        max_new_tokens=9,
    )
    return GoldenRun(name, arrays, result)


@pytest.fixture(params=GOLDEN_CASES, ids=lambda case: case[0])
def golden(request: pytest.FixtureRequest) -> GoldenRun:
    run = run_golden(*request.param)
    if isinstance(run, str):
        pytest.skip(run)
    return run


@pytest.fixture
def golden_clusters() -> dict[str, np.ndarray]:
    with np.load(CARRIED / "units" / "cluster.npz") as file:
        return {key: file[key] for key in file.files}
