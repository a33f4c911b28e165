"""From a checkpoint to a bundle, one graph at a time."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from pathlib import Path

import onnx_ir as ir
import torch

from sparsevlm_ops.budget import Budget
from sparsevlm_ops.methods import METHODS, Step, get_method, judge_graphs, prune_steps
from sparsevlm_ops.schedule import BUDGET_VISUAL_TOKENS, Schedule
from sparsevlm_trt.export.bundle_writer import BundleWriter
from sparsevlm_trt.export.checkpoint import Checkpoint
from sparsevlm_trt.export.families.family import Family
from sparsevlm_trt.export.families.registry import open_family
from sparsevlm_trt.export.float16_plan import REPORT_FILE, Float16Plan
from sparsevlm_trt.export.formats import DTYPES
from sparsevlm_trt.export.graph_module import GraphModule
from sparsevlm_trt.export.links import chain_links
from sparsevlm_trt.export.plan import PruningPlan, plan_stages
from sparsevlm_trt.export.processor_files import processor_files
from sparsevlm_trt.export.scan_report import ScannedModel, read_scan
from sparsevlm_trt.export.to_onnx import onnx_from_module
from sparsevlm_trt.export.weights import WeightBinder
from sparsevlm_trt.runtime.errors import ExportError
from sparsevlm_trt.runtime.graph_spec import GraphSpec, StageSpec, TensorSpec
from sparsevlm_trt.runtime.manifest import Manifest, PlanSpec
from sparsevlm_trt.runtime.model_spec import ModelSpec
from sparsevlm_trt.runtime.packages import installed_version
from sparsevlm_trt.runtime.strict_json import encode, json_text

__all__ = ["export_bundle"]

_TOOLS = ("sparsevlm-trt", "torch", "transformers", "onnx", "onnx-ir", "onnxscript")


def export_bundle(
    checkpoint: str | Path,
    out: str | Path,
    *,
    method: str = "sparsevlm",
    budget: Budget | None = None,
    schedule: Mapping[int, int] | str | Schedule | None = None,
    boundaries: Iterable[int] | None = None,
    dtype: str = "float32",
    opset: int = 23,
    peaks: str | Path | None = None,
    overwrite: bool = False,
    progress: Callable[[str, int, int], None] | None = None,
) -> Path:
    """Export a checkpoint as a bundle of chained stage graphs.

    Weights are read tensor by tensor and written once; peak memory is that of tracing one graph
    plus the largest tensor, whatever the model's size.

    Args:
        checkpoint: Hugging Face checkpoint folder with safetensors weights.
        out: Bundle folder to make.
        method: Default pruning method, or `none` for an unpruned chain.
        budget: Default nominal average of visual tokens, or a fraction of them; 192, or a third,
            where neither it nor a schedule is given.
        schedule: Default tokens kept after each pruning layer, instead of a budget.
        boundaries: Layers after which to cut, when not those that the methods want.
        dtype: `float32` (the reference) or `float16` (GPU engines).
        opset: ONNX opset, 23 or 24.
        peaks: Report of an overflow scan (`sparsevlm overflow --json`) of a float32 bundle of this
            checkpoint: hidden states are scaled, and nodes that nothing else helps compute in
            float32, so that a float16 bundle holds what the scan saw.
        overwrite: Replace an existing bundle.
        progress: Called before each graph with its name, its number and how many there are.

    Returns:
        The bundle's folder.

    Raises:
        ExportError: The checkpoint cannot be exported, the peaks are another model's or cannot be
            helped, or the disk is full; nothing stays behind.
        PlanError: A budget, schedule or method this model cannot follow.
    """
    if dtype not in DTYPES:
        raise ExportError(
            f"dtype | got {dtype!r} | expected one of {', '.join(DTYPES)} | give --dtype float32"
        )
    scan = None if peaks is None else read_scan(Path(peaks))
    safety = None if scan is None else Float16Plan(scan)
    source = Checkpoint(checkpoint)
    family = open_family(source, getattr(torch, dtype))
    num_layers = family.language.config.num_layers
    if safety is not None:
        assert peaks is not None
        safety.check(ScannedModel.of(_model_spec(family, source, dtype, {})), Path(peaks))
        family.language.scale_residual(safety.shift)
    plan = PruningPlan.make(
        num_layers,
        method=method,
        budget=budget,
        schedule=schedule,
        boundaries=boundaries,
        num_visual=family.vision_spec.num_visual if family.vision_spec else BUDGET_VISUAL_TOKENS,
        num_deepstack=family.language.num_deepstack,
    )
    stages = plan_stages(num_layers, plan.boundaries)
    methods = [m for m in METHODS if get_method(m).prunes] if plan.boundaries else []
    spec = family.vision_spec
    processor = processor_files(
        source.path,
        needs_images=spec is not None,
        needs_videos=spec is not None and spec.takes_videos,
        video_template=family.video_template,
    )
    with BundleWriter(out, overwrite=overwrite) as writer:
        binder = WeightBinder(source, writer)
        graphs: dict[str, GraphSpec] = {}
        judges, steps = judge_graphs(methods), prune_steps(methods)
        towers = sum(tower is not None for tower in (family.vision, family.video))
        total = len(stages) + bool(steps) + len(judges) + len(steps) + 3 + towers
        for number, graph in enumerate(_graph_modules(family, stages, judges, steps)):
            if progress is not None:
                progress(graph.name, number, total)
            graphs[graph.name] = _write_graph(graph, opset, binder, writer, safety)
            source.release()
        # Each method finds its prune graph by its own name; methods of one step share the file.
        by_step = {step: graphs.pop(f"prune_{step}") for step in steps}
        graphs |= {f"prune_{name}": by_step[step] for name, step in _steps_by_method(methods)}
        for name, content in processor.items():
            writer.add_file(f"processor/{name}", content)
        if safety is not None:
            assert peaks is not None
            done = json_text(encode(safety.report(Path(peaks))))
            writer.add_file(REPORT_FILE, done.encode("ascii"))
        links = chain_links(graphs, stages)
        manifest = Manifest(
            model=_model_spec(family, source, dtype, graphs),
            vision=family.vision_spec,
            plan=PlanSpec(
                method=plan.method,
                methods=(*methods, "none"),
                boundaries=plan.boundaries,
                budget=plan.budget,
                schedule=plan.schedule.as_dict() if plan.schedule else {},
                source=plan.source,
            ),
            stages=stages,
            graphs=graphs,
            links=links,
            files=writer.files,
            # Sources that are not installed have no version.
            tools={name: installed_version(name) or "none" for name in _TOOLS},
        )
        return writer.finish(manifest)


def _graph_modules(
    family: Family, stages: Iterable[StageSpec], judges: Iterable[str], steps: Collection[Step]
) -> Iterator[GraphModule]:
    """Yield one graph module at a time, so that only one is in memory."""
    language = family.language
    for tower in (family.vision, family.video):
        if tower is not None:
            yield tower
    yield language.embed()
    yield language.raters()
    for stage in stages:
        yield language.stage(stage)
    if steps:
        yield language.rater_rows()
    for judge in judges:
        yield getattr(language, judge)()
    for step in steps:
        yield language.prune(step)
    yield language.head()


def _steps_by_method(methods: Iterable[str]) -> Iterator[tuple[str, Step]]:
    """Pair each method that prunes with its step."""
    for name in methods:
        step = get_method(name).step
        if step is not None:
            yield name, step


def _write_graph(
    graph: GraphModule,
    opset: int,
    binder: WeightBinder,
    writer: BundleWriter,
    safety: Float16Plan | None,
) -> GraphSpec:
    model = onnx_from_module(graph, opset)
    if safety is not None:
        safety.widen(graph.name, model)
    files = binder.bind(model, graph)
    ir.save(model, writer.graph_path(graph.name))
    return writer.graph_spec(
        graph.name,
        [_tensor_spec(value) for value in model.graph.inputs],
        [_tensor_spec(value) for value in model.graph.outputs],
        files,
    )


def _tensor_spec(value: ir.Value) -> TensorSpec:
    assert value.name is not None
    assert value.dtype is not None
    assert value.shape is not None
    shape = tuple(d if isinstance(d, int) else str(d.value) for d in value.shape)
    return TensorSpec(value.name, str(value.dtype.numpy()), shape)


def _model_spec(
    family: Family, source: Checkpoint, dtype: str, graphs: Mapping[str, GraphSpec]
) -> ModelSpec:
    config = family.language.config
    # The graphs name their weights by content, so this is a hash over all of them.
    weights = json.dumps({name: spec.weights for name, spec in sorted(graphs.items())})
    return ModelSpec(
        source=source.path.resolve().name,
        model_type=family.model_type,
        text_model_type=config.model_type,
        weights_sha256=hashlib.sha256(weights.encode()).hexdigest(),
        dtype=dtype,
        num_layers=config.num_layers,
        hidden_size=config.hidden_size,
        intermediate_size=config.intermediate_size,
        num_heads=config.num_heads,
        num_kv_heads=config.num_kv_heads,
        head_dim=config.head_dim,
        vocab_size=config.vocab_size,
        max_position=config.max_position,
        tied_head=config.tied_head,
        num_axes=config.num_axes,
        num_deepstack=family.language.num_deepstack or None,
        residual_shift=config.residual_shift or None,
    )
