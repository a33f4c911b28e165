"""A bundle that was never exported: its graph modules run in PyTorch behind the Runner protocol.

What a family adds is arithmetic and plumbing; both are seen here in a second or two, where an
export to ONNX takes half a minute. That the exported graphs compute the same is tested apart.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sparsevlm_ops.methods import get_method
from sparsevlm_trt.export.checkpoint import Checkpoint
from sparsevlm_trt.export.exporter import _model_spec
from sparsevlm_trt.export.families.family import Family
from sparsevlm_trt.export.families.registry import open_family
from sparsevlm_trt.export.graph_module import GraphModule
from sparsevlm_trt.export.plan import PruningPlan, plan_stages
from sparsevlm_trt.export.processor_files import processor_files
from sparsevlm_trt.runtime.bundle import Bundle
from sparsevlm_trt.runtime.graph_spec import FileSpec, StageSpec
from sparsevlm_trt.runtime.manifest import Manifest, PlanSpec


class TorchRunner:
    """Runs graph modules as they are."""

    name = "torch"
    device = "cpu"

    def __init__(self, modules: Mapping[str, GraphModule]) -> None:
        self._modules = modules

    def load(self, bundle: object, graphs: object) -> None:
        pass

    def close(self) -> None:
        pass

    def empty(self, shape: Any, dtype: Any, /) -> np.ndarray:
        return np.empty(shape, dtype)

    def __enter__(self) -> TorchRunner:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @torch.no_grad()
    def run(
        self, graph: str, inputs: Mapping[str, Any], into: Mapping[str, Any] | None = None
    ) -> dict[str, Any]:
        module = self._modules[graph]
        given = {name: _tensor(value) for name, value in inputs.items()}
        arguments = [
            [given[item] for item in module.list_names[name]]
            if isinstance(value, list)
            else given[name]
            for name, value in module.inputs.items()
        ]
        made = module.module(*arguments)
        outputs = (made,) if isinstance(made, torch.Tensor) else made
        arrays = {n: out.numpy() for n, out in zip(module.outputs, outputs, strict=True)}
        for name, place in (into or {}).items():
            place[...] = arrays[name]
            arrays[name] = place
        return arrays


def torch_bundle(
    checkpoint: Path,
    folder: Path,
    schedule: dict[int, int],
    methods: tuple[str, ...],
    residual_shift: int = 0,
    dtype: torch.dtype = torch.float32,
) -> tuple[Bundle, TorchRunner]:
    """A bundle's manifest and processor files, and a runner of its modules."""
    source = Checkpoint(checkpoint)
    family = open_family(source, dtype)
    family.language.scale_residual(residual_shift)
    config, spec = family.language.config, family.vision_spec
    assert spec is not None
    plan = PruningPlan.make(config.num_layers, schedule=schedule, num_visual=spec.num_visual)
    stages = plan_stages(config.num_layers, plan.boundaries)
    modules = {graph.name: _filled(graph, source, dtype) for graph in _graphs(family, stages)}
    for method in methods:
        step = get_method(method).step
        assert step is not None
        modules[f"prune_{method}"] = family.language.prune(step)
    files = processor_files(
        checkpoint,
        needs_images=True,
        needs_videos=spec.takes_videos,
        video_template=family.video_template,
    )
    (folder / "processor").mkdir(parents=True)
    for name, content in files.items():
        (folder / "processor" / name).write_bytes(content)
    manifest = Manifest(
        model=_model_spec(family, source, str(dtype).removeprefix("torch."), {}),
        vision=spec,
        plan=PlanSpec(
            method=plan.method,
            methods=(*methods, "none"),
            boundaries=plan.boundaries,
            budget=None,
            schedule=schedule,
            source=plan.source,
        ),
        stages=stages,
        graphs={},
        links=(),
        files={f"processor/{name}": FileSpec("0" * 64, 0) for name in files},
        tools={},
    )
    return Bundle(folder, manifest), TorchRunner(modules)


def _graphs(family: Family, stages: tuple[StageSpec, ...]) -> list[GraphModule]:
    language = family.language
    towers = [tower for tower in (family.vision, family.video) if tower is not None]
    ends = [language.embed(), language.raters(), language.rater_rows(), language.head()]
    return [*towers, *ends, *map(language.stage, stages)]


def _filled(graph: GraphModule, source: Checkpoint, dtype: torch.dtype) -> GraphModule:
    """Fill the parameters that an export leaves to the writer."""
    weights = {}
    for name, origin in graph.weights.items():
        names = (origin.stored_name, *origin.beside)
        stored = torch.cat([source.tensor(one).to(torch.float32) for one in names])
        laid = stored.t().contiguous() if origin.transpose else stored
        weights[name] = (laid * origin.scale).to(dtype)
    if weights:
        graph.module.load_state_dict(weights, assign=True, strict=False)
    graph.module.eval()
    return graph


def _tensor(value: Any) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(value))
