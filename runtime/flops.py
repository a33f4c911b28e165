"""What a chain costs, by arithmetic: floating-point operations and bytes of KV cache.

Counted: matrix products (projections, MLP, attention's two over all keys, without the half that
causality could save, as the paper counts), at 2 operations per multiply-add. Not counted: norms,
softmax, rotary, and the pruning itself (raters once; at each boundary R rows of one layer's
attention scores and the clustering of the candidates), about 0.1 % of a 7B model's prefill.

Two ways to count a pruning layer, which the cuts of `ChainCost` keep apart:

- computed (`prefill_cut`): it works on its whole input, since pruning acts on its output. With
  the authors' schedules layers 0-2 work on every visual token.
- nominal (`paper_cut`): it counts with its output, as the average behind the name "192" does, in
  the paper's formula for the multiply-adds of one layer, `4 n d^2 + 2 n^2 d + 3 n d m` with n
  tokens, d hidden and m intermediate size. The formula knows no grouped KV heads.

Against the published figures of LLaVA-1.5-7B, one operation per multiply-add: 4.62 T unpruned,
2.14 T (-53.7 %) at 192, 1.72 T (-62.8 %) at 128. 4.62 T implies 118 text tokens. With these the
COMPUTED count agrees within 1 %: 2.13 T (-53.8 %) and 1.73 T (-62.5 %); at 64 it gives 1.31 T
(-71.6 %). The nominal count does not, it promises more than the chain saves: 2.04 T (-55.9 %) and
1.62 T (-65.0 %). The published KV cache, 302.4 -> 100.8 MB, is the nominal 192/576 all the same;
the chain caches 108 MB of visual tokens.

Source: SparseVLM (arXiv 2410.04417), efficiency table and its FLOPs formula.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sparsevlm_ops.cells import Grid
from sparsevlm_ops.schedule import Schedule, boundary_counts, visual_counts
from sparsevlm_trt.runtime.errors import PlanError
from sparsevlm_trt.runtime.graph_spec import StageSpec
from sparsevlm_trt.runtime.model_spec import ModelSpec, VisionSpec

__all__ = [
    "DTYPE_BYTES",
    "ChainCost",
    "StageCost",
    "chain_cost",
    "layer_multiply_adds",
    "paper_multiply_adds",
]

FLOPS_PER_MULTIPLY_ADD = 2
DTYPE_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2, "int8": 1}
IMAGE_CHANNELS = 3


@dataclass(frozen=True, slots=True)
class StageCost:
    """What one stage costs.

    Attributes:
        graph: The stage's graph.
        num_layers: Its decoder layers.
        num_visual: Visual tokens that they see, merged ones among them.
        num_tokens: All tokens that they see in prefill, and cache.
        prefill_flops: Operations of the prefill.
        decode_flops: Operations of the first decoded token.
        kv_bytes: Bytes of KV cache after the prefill.
    """

    graph: str
    num_layers: int
    num_visual: int
    num_tokens: int
    prefill_flops: int
    decode_flops: int
    kv_bytes: int


@dataclass(frozen=True, slots=True)
class ChainCost:
    """What a prompt costs, and what it would cost unpruned.

    Attributes:
        stages: Cost of each stage, in order.
        vision_flops: Operations of vision tower and projector, for all images.
        head_flops: Operations of one row of logits; prefill and each decoded token make one.
        unpruned_prefill_flops: `prefill_flops` had nothing been pruned.
        unpruned_kv_bytes: `kv_bytes` had nothing been pruned.
        paper_multiply_adds: Multiply-adds of the prefill in the paper's formula and nominal count.
        unpruned_paper_multiply_adds: The same had nothing been pruned.
    """

    stages: tuple[StageCost, ...]
    vision_flops: int
    head_flops: int
    unpruned_prefill_flops: int
    unpruned_kv_bytes: int
    paper_multiply_adds: int
    unpruned_paper_multiply_adds: int

    @property
    def prefill_flops(self) -> int:
        """Operations of all decoder layers in prefill."""
        return sum(stage.prefill_flops for stage in self.stages)

    @property
    def decode_flops(self) -> int:
        """Operations of the first decoded token, its logits included."""
        return sum(stage.decode_flops for stage in self.stages) + self.head_flops

    @property
    def total_flops(self) -> int:
        """Operations up to the first logits: vision, all stages, head."""
        return self.vision_flops + self.prefill_flops + self.head_flops

    @property
    def kv_bytes(self) -> int:
        """Bytes of KV cache after the prefill, all stages."""
        return sum(stage.kv_bytes for stage in self.stages)

    @property
    def prefill_cut(self) -> float:
        """Share of the decoder's prefill operations that pruning saves, as computed."""
        return 1 - self.prefill_flops / self.unpruned_prefill_flops

    @property
    def paper_cut(self) -> float:
        """Share that it would save if a pruning layer worked on its output only (nominal)."""
        return 1 - self.paper_multiply_adds / self.unpruned_paper_multiply_adds

    @property
    def kv_cut(self) -> float:
        """Share of the KV cache that pruning saves."""
        return 1 - self.kv_bytes / self.unpruned_kv_bytes


def chain_cost(
    model: ModelSpec,
    vision: VisionSpec | None,
    stages: Sequence[StageSpec],
    schedule: Schedule | None,
    *,
    num_visual: int,
    num_text: int,
    recycles: bool = True,
    pools: Grid | None = None,
    num_images: int = 1,
) -> ChainCost:
    """Count what one prompt costs on a chain.

    Args:
        model: The language model.
        vision: The vision tower, or None to leave it out.
        stages: The chain's stages, in order.
        schedule: Tokens kept after each pruning layer, or None for no pruning.
        num_visual: Tokens of the visual block that is pruned; 0 for a text-only prompt.
        num_text: All other tokens, before and after it; 1 or more with `num_visual`.
        recycles: Whether the method brings dropped tokens back merged.
        pools: The grid of the visual tokens, for a method that pools.
        num_images: Images that the vision tower sees; ignored where `num_visual` is 0.

    Raises:
        PlanError: No tokens at all, or the schedule prunes where the chain has no boundary.
    """
    if num_visual < 0 or num_text < 0 or num_visual + num_text < 1:
        raise PlanError(
            f"cost | got {num_visual} visual and {num_text} text tokens | expected 1 or more | "
            "count the prompt's tokens"
        )
    boundaries = [stage.stop - 1 for stage in stages[:-1]]
    elsewhere = [layer for layer in schedule.layers if layer not in boundaries] if schedule else []
    if schedule is not None and elsewhere:
        raise PlanError(
            f"schedule {schedule.spell()} | prunes after layers {elsewhere} | expected some of "
            f"{boundaries} | export with these boundaries, or choose another schedule"
        )
    num_all = num_visual + num_text
    counts = _stage_visual_counts(stages, schedule, num_visual, recycles, pools)
    nominal = (
        visual_counts(schedule, num_visual, model.num_layers, recycles, pools)
        if schedule is not None
        else (num_visual,) * model.num_layers
    )
    has_images = vision is not None and num_visual > 0
    return ChainCost(
        stages=tuple(
            _stage_cost(model, stage, count, num_text)
            for stage, count in zip(stages, counts, strict=True)
        ),
        vision_flops=num_images * _vision_flops(model, vision) if has_images and vision else 0,
        head_flops=FLOPS_PER_MULTIPLY_ADD * model.hidden_size * model.vocab_size,
        unpruned_prefill_flops=sum(
            _stage_cost(model, stage, num_visual, num_text).prefill_flops for stage in stages
        ),
        unpruned_kv_bytes=sum(_kv_bytes(model, stage, num_all) for stage in stages),
        paper_multiply_adds=sum(paper_multiply_adds(model, n + num_text) for n in nominal),
        unpruned_paper_multiply_adds=model.num_layers * paper_multiply_adds(model, num_all),
    )


def layer_multiply_adds(model: ModelSpec, num_tokens: int, num_keys: int) -> int:
    """Multiply-adds of one decoder layer: `num_tokens` new tokens that see `num_keys` keys.

    Queries and output projection of H heads, keys and values of G heads, a gated MLP. For
    G = H, H D = N and as many keys as tokens this is the paper's formula.
    """
    heads_width = model.num_heads * model.head_dim
    projected = 2 * heads_width + 2 * model.num_kv_heads * model.head_dim
    per_token = model.hidden_size * (projected + 3 * model.intermediate_size)
    return num_tokens * per_token + 2 * num_tokens * num_keys * heads_width


def paper_multiply_adds(model: ModelSpec, num_tokens: int) -> int:
    """Multiply-adds of one layer in prefill by the paper's formula, blind to grouped KV heads."""
    n, d, m = num_tokens, model.hidden_size, model.intermediate_size
    return 4 * n * d * d + 2 * n * n * d + 3 * n * d * m


def _stage_visual_counts(
    stages: Sequence[StageSpec],
    schedule: Schedule | None,
    num_visual: int,
    recycles: bool,
    pools: Grid | None,
) -> list[int]:
    """Visual tokens that each stage sees; a boundary that the schedule leaves out changes none."""
    steps = boundary_counts(schedule, num_visual, recycles, pools) if schedule else ()
    after = {step.layer: step.num_out for step in steps}
    counts = []
    for stage in stages:
        counts.append(num_visual)
        num_visual = after.get(stage.stop - 1, num_visual)
    return counts


def _stage_cost(model: ModelSpec, stage: StageSpec, num_visual: int, num_text: int) -> StageCost:
    num_tokens = num_visual + num_text
    per_layer = FLOPS_PER_MULTIPLY_ADD * stage.num_layers
    return StageCost(
        graph=stage.graph,
        num_layers=stage.num_layers,
        num_visual=num_visual,
        num_tokens=num_tokens,
        prefill_flops=per_layer * layer_multiply_adds(model, num_tokens, num_tokens),
        decode_flops=per_layer * layer_multiply_adds(model, 1, num_tokens + 1),
        kv_bytes=_kv_bytes(model, stage, num_tokens),
    )


def _kv_bytes(model: ModelSpec, stage: StageSpec, num_tokens: int) -> int:
    per_token = 2 * model.num_kv_heads * model.head_dim * DTYPE_BYTES[model.kv_dtype]
    return stage.num_layers * num_tokens * per_token


def _vision_flops(model: ModelSpec, vision: VisionSpec) -> int:
    """Operations of one image: patches, encoder layers with a plain MLP, a two-layer projector."""
    n, d, m = vision.num_positions, vision.hidden_size, vision.intermediate_size
    rows, columns = vision.image_size
    patches = IMAGE_CHANNELS * rows * columns * d  # patches tile the image, so their size cancels
    layers = vision.num_layers * (4 * n * d * d + 2 * n * n * d + 2 * n * d * m)
    projector = vision.num_visual * model.hidden_size * (d + model.hidden_size)
    return FLOPS_PER_MULTIPLY_ADD * (patches + layers + projector)
