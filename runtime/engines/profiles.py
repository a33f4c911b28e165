"""Optimization profiles: the shapes that each graph can meet, from the limits of a bundle.

Text-only prompts may be as long as any, so every stage can meet every length: what the pruning of
earlier stages changes is the usual length (`opt`), not the longest. The raters are text behind at
least one image, and bound by that.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from sparsevlm_ops.cells import block_grid
from sparsevlm_ops.methods import METHODS, get_method
from sparsevlm_ops.schedule import Schedule, stage_visual_counts
from sparsevlm_trt.runtime.engines.limits import Limits
from sparsevlm_trt.runtime.errors import EngineError
from sparsevlm_trt.runtime.graph_spec import GraphSpec, decides
from sparsevlm_trt.runtime.manifest import Manifest

__all__ = ["MAX_TOPK", "PROFILE_KINDS", "SHAPE_INPUTS", "Profile", "Range", "graph_profiles"]

# One profile for prefill and decode, or one for each.
PROFILE_KINDS = ("wide", "split")
MAX_TOPK = 3840  # what TensorRT's TopK can return; its builder checks constants only
METHODS_BY_RANK = tuple(name for name, method in METHODS.items() if method.counts == "rank")
_USUAL_TEXT = 64  # tokens of a usual question, the template's included
_USUAL_RATERS = 8
# Inputs whose values, not shapes, are ranges: sizes that the host reads.
SHAPE_INPUTS = ("num_kept", "num_heads")


@dataclass(frozen=True, slots=True)
class Range:
    """Shapes of one input (or values, where the input is a size): least, usual, most."""

    min: tuple[int, ...]
    opt: tuple[int, ...]
    max: tuple[int, ...]


Profile = Mapping[str, Range]
_Dims = dict[str, tuple[int, int, int]]


def graph_profiles(
    manifest: Manifest, limits: Limits, graph: str, kind: str = "wide"
) -> tuple[Profile, ...]:
    """Derive the profiles of a graph.

    Args:
        manifest: Of the bundle.
        limits: The largest request.
        graph: The graph's name.
        kind: One of `PROFILE_KINDS`; only stages have a decode profile.

    Returns:
        One profile, or two: prefill, then decode.

    Raises:
        EngineError: An input has a dim that no limit bounds.
    """
    spec = manifest.graphs[graph]
    dims = _dims(manifest, limits, graph)
    stages = [stage.graph for stage in manifest.stages]
    if kind == "wide" or graph not in stages:
        return (_profile(graph, spec, dims),)
    usual_past = dims["seq_len"][1]
    decode: _Dims = {
        **dims,
        "seq_len": (1, 1, 1),
        "past_len": (1, usual_past, limits.capacity),
    }
    return (_profile(graph, spec, dims), _profile(graph, spec, decode))


def _dims(manifest: Manifest, limits: Limits, graph: str) -> _Dims:
    """Bound every named dim that a graph's inputs can have."""
    vision = manifest.vision
    most_visual = limits.most_visual
    usual_visual = most_visual
    if vision is not None and limits.image is not None:
        usual_visual = min(vision.num_visual, limits.image.tokens, most_visual)
    # Raters are text, and something visual stands before them: one image, if images are known.
    most_text = limits.most_text
    usual_text = min(_USUAL_TEXT, most_text)
    at_boundary = graph != "raters" and decides(graph)  # raters and visual tokens are there
    # A rank of 1 can leave merged tokens alone.
    least_kept = int(graph not in [f"prune_{name}" for name in METHODS_BY_RANK])
    visual = _usual_visual(manifest, graph, usual_visual)
    length = min(visual + usual_text, limits.max_prompt)
    heads = manifest.model.num_heads
    least_visual = 2 if at_boundary else 1 if graph == "raters" else 0
    kept = min(most_visual - 1, MAX_TOPK)
    dims = {
        "batch": (1, 1, limits.max_batch),
        "seq_len": (1, length, limits.max_prompt),
        "past_len": (0, 0, limits.capacity),
        "num_visual": (least_visual, max(least_visual, visual), max(least_visual, most_visual)),
        "num_raters": (int(at_boundary), min(_USUAL_RATERS, most_text), most_text),
        "num_text": (1, usual_text, most_text),
        "num_heads": (1, heads, heads),
        "num_images": (1, 1, limits.most_rows),
        "num_patches": _patches(manifest, limits),
        "num_kept": (least_kept, max(1, min(usual_visual // 3, kept)), max(1, kept)),
    }
    if at_boundary:
        dims["seq_len"] = (2, max(2, length), limits.max_prompt)
    return dims


def _patches(manifest: Manifest, limits: Limits) -> tuple[int, int, int]:
    """Patches of a tower that takes any number of them: whole merged ones."""
    vision = manifest.vision
    merged = vision.setting("merge_size") ** 2 if vision else 1
    usual = vision.num_positions if vision else 1
    return merged or 1, min(usual, limits.most_rows), limits.most_rows


def _usual_visual(manifest: Manifest, graph: str, num_visual: int) -> int:
    """Follow one image through the bundle's own schedule to the graph."""
    plan = manifest.plan
    numbers = {stage.graph: number for number, stage in enumerate(manifest.stages)}
    if graph not in numbers or not plan.schedule or plan.method == "none" or num_visual < 2:
        return num_visual
    method = get_method(plan.method)
    grid = manifest.vision.grid if manifest.vision else None
    pools = block_grid(num_visual, grid) if method.pools else None
    schedule = Schedule.of(plan.schedule)
    counts = stage_visual_counts(schedule, num_visual, method.recycles, pools)
    passed = [layer for layer in schedule.layers if layer < manifest.stages[numbers[graph]].first]
    return counts[len(passed)]


def _profile(graph: str, spec: GraphSpec, dims: _Dims) -> Profile:
    profile: dict[str, Range] = {}
    for tensor in spec.inputs:
        if tensor.name in SHAPE_INPUTS:
            low, usual, high = dims[tensor.name]
            profile[tensor.name] = Range((low,), (usual,), (high,))
            continue
        unknown = [dim for dim in tensor.shape if isinstance(dim, str) and dim not in dims]
        if unknown:
            raise EngineError(
                f"graph {graph} | input {tensor.name} has the dim {unknown[0]!r} | expected of: "
                f"{', '.join(sorted(dims))} | this version cannot bound it: update sparsevlm-trt"
            )
        shapes = [
            tuple(dim if isinstance(dim, int) else dims[dim][which] for dim in tensor.shape)
            for which in range(3)
        ]
        profile[tensor.name] = Range(*shapes)
    return profile
