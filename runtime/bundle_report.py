"""What a bundle holds and what a prompt costs on it, as plain values for tables and JSON."""

from __future__ import annotations

from typing import Any

from sparsevlm_ops.cells import Grid, block_grid
from sparsevlm_ops.schedule import Schedule, average_visual_tokens
from sparsevlm_trt.runtime.boundary import Pruning
from sparsevlm_trt.runtime.bundle import Bundle, listed_files
from sparsevlm_trt.runtime.flops import ChainCost, chain_cost
from sparsevlm_trt.runtime.graph_spec import GraphSpec
from sparsevlm_trt.runtime.manifest import Manifest
from sparsevlm_trt.runtime.plain_json import plain_from

__all__ = ["USUAL_RANK", "bundle_report", "cost_report", "prompt_cost", "weight_bytes"]

USUAL_RANK = 10  # as many as the raters of a usual question, whose attention is independent


def bundle_report(bundle: Bundle) -> dict[str, Any]:
    """Describe a bundle: model, plan, stages, graphs and sizes in bytes.

    A weight file that several graphs share counts for each of them, and once in the total.
    """
    manifest = bundle.manifest
    files = listed_files(manifest)
    return {
        "bundle": str(bundle.path),
        "size_bytes": sum(spec.size_bytes for spec in files.values()),
        "num_files": len(files),
        "model": plain_from(manifest.model),
        "vision": plain_from(manifest.vision),
        "plan": plain_from(manifest.plan),
        "stages": [
            {
                "graph": stage.graph,
                "first": stage.first,
                "stop": stage.stop,
                "graph_bytes": manifest.graphs[stage.graph].size_bytes,
                "weight_bytes": weight_bytes(manifest, stage.graph),
            }
            for stage in manifest.stages
        ],
        "graphs": {
            name: {
                "file": graph.file,
                "graph_bytes": graph.size_bytes,
                "weight_bytes": weight_bytes(manifest, name),
                "inputs": plain_from(graph.inputs),
                "outputs": plain_from(graph.outputs),
            }
            for name, graph in sorted(manifest.graphs.items(), key=_flow_order)
        },
        "tools": dict(manifest.tools),
    }


def weight_bytes(manifest: Manifest, graph: str) -> int:
    """Bytes of a graph's weights; a file that several graphs share counts for each of them."""
    return sum(manifest.files[file].size_bytes for file in manifest.graphs[graph].weights)


def prompt_cost(
    manifest: Manifest,
    pruning: Pruning,
    *,
    num_visual: int,
    num_text: int,
    rank: int = USUAL_RANK,
) -> ChainCost:
    """Count what a prompt costs by any method; arguments and errors are those of `cost_report`."""
    vision = manifest.vision
    schedule, recycles, pools = _counted(manifest, pruning, num_visual, rank)
    return chain_cost(
        manifest.model,
        vision,
        manifest.stages,
        schedule,
        num_visual=num_visual,
        num_text=num_text,
        recycles=recycles,
        pools=pools,
        num_images=-(-num_visual // vision.num_visual) if vision else 0,
    )


def cost_report(
    manifest: Manifest,
    pruning: Pruning,
    *,
    num_visual: int,
    num_text: int,
    rank: int = USUAL_RANK,
) -> dict[str, Any]:
    """Count what a prompt costs; see `flops.chain_cost` for what is counted.

    Args:
        manifest: Of the bundle.
        pruning: What happens at the boundaries.
        num_visual: Tokens of the visual block, before pruning.
        num_text: All other tokens.
        rank: What every boundary meets, for a method that goes by rank.

    Returns:
        Counts in tokens, FLOPs (2 for each multiply-add), multiply-adds and bytes.

    Raises:
        PlanError: There are no tokens at all.
    """
    model, told, source = manifest.model, None, None
    if pruning.rank_rule is not None:
        told, source = pruning.rank_rule.spell(), f"the prompt's; told for a rank of {rank}"
    elif (asked := pruning.schedule_for(num_visual)) is not None:
        told, source = asked.spell(), asked.source
    cost = prompt_cost(manifest, pruning, num_visual=num_visual, num_text=num_text, rank=rank)
    schedule, recycles, pools = _counted(manifest, pruning, num_visual, rank)
    nominal = (
        average_visual_tokens(schedule, num_visual, model.num_layers, recycles, pools)
        if schedule
        else float(num_visual)
    )
    computed = sum(stage.num_visual * stage.num_layers for stage in cost.stages)
    return {
        "method": pruning.method.name,
        "schedule": told,
        "schedule_source": source,
        "positions": "compact" if pruning.is_compact else "original",
        "num_visual": num_visual,
        "num_text": num_text,
        "nominal_average_visual_tokens": nominal,
        "computed_average_visual_tokens": computed / model.num_layers,
        "stages": plain_from(cost.stages),
        "vision_flops": cost.vision_flops,
        "prefill_flops": cost.prefill_flops,
        "unpruned_prefill_flops": cost.unpruned_prefill_flops,
        "prefill_cut": cost.prefill_cut,
        "head_flops": cost.head_flops,
        "total_flops": cost.total_flops,
        "decode_flops": cost.decode_flops,
        "paper_multiply_adds": cost.paper_multiply_adds,
        "unpruned_paper_multiply_adds": cost.unpruned_paper_multiply_adds,
        "paper_cut": cost.paper_cut,
        "kv_bytes": cost.kv_bytes,
        "unpruned_kv_bytes": cost.unpruned_kv_bytes,
        "kv_cut": cost.kv_cut,
    }


def _flow_order(item: tuple[str, GraphSpec]) -> tuple[int, str]:
    """Sort graphs by when a prompt meets them."""
    kinds = ("vision", "embed", "raters", "stage", "rater", "prune", "head")
    kind = item[0].partition("_")[0]
    return (kinds.index(kind) if kind in kinds else len(kinds), item[0])


def _counted(
    manifest: Manifest, pruning: Pruning, num_visual: int, rank: int
) -> tuple[Schedule | None, bool, Grid | None]:
    """What a prune step leaves: the schedule, whether merged tokens join it, and pooled grids."""
    schedule, recycles = pruning.schedule_for(num_visual), pruning.method.recycles
    if pruning.rank_rule is not None:
        left = pruning.rank_rule.outcome(num_visual, rank)
        # What is left counts merged tokens already.
        schedule, recycles = (Schedule.of(left) if left else None), False
    grid = block_grid(num_visual, manifest.vision.grid if manifest.vision else None)
    return schedule, recycles, grid if pruning.method.pools else None
