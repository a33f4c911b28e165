"""One engine to be: what it is built from, and what that will take."""

from __future__ import annotations

from dataclasses import dataclass

from sparsevlm_trt.runtime.engines.forecast import EngineForecast, forecast_engine
from sparsevlm_trt.runtime.engines.limits import Limits
from sparsevlm_trt.runtime.engines.profiles import graph_profiles
from sparsevlm_trt.runtime.engines.record import EngineSpec, Machine
from sparsevlm_trt.runtime.manifest import Manifest
from sparsevlm_trt.runtime.tensorrt.build import BuildFlags

__all__ = ["Task", "make_task"]


@dataclass(frozen=True, slots=True)
class Task:
    """One engine to be."""

    graph: str
    spec: EngineSpec
    forecast: EngineForecast


def make_task(
    manifest: Manifest,
    machine: Machine,
    limits: Limits,
    graph: str,
    kind: str,
    flags: BuildFlags,
) -> Task:
    """Work out what a graph's engine is built from; see `CompileJob`.

    Raises:
        EngineError: The graph has a dim that no limit bounds.
    """
    profiles = graph_profiles(manifest, limits, graph, kind)
    spec = EngineSpec(
        graph_sha256=manifest.graphs[graph].sha256,
        precision=manifest.model.dtype,
        machine=machine,
        profiles=profiles,
        flags=flags.spelled(),
    )
    return Task(graph, spec, forecast_engine(manifest, graph, profiles, machine.target))
