"""How large an engine will be, and how much memory building it will take, before it is built.

The constants were fitted to builds by TensorRT-RTX 1.7.1 (`benchmarks/engines.py`): a plan is the
weights and compiled kernels; the builder holds the weights about three times, and some memory for
each layer that it compiles.
"""

from __future__ import annotations

from dataclasses import dataclass

from sparsevlm_trt.runtime.engines.profiles import Profile
from sparsevlm_trt.runtime.manifest import Manifest

__all__ = ["EngineForecast", "forecast_engine"]

# Bytes of kernels: of a graph of this kind, and of each of its layers.
_KERNELS = {"stage": (2_000_000, 300_000), "vision": (900_000, 200_000), "ends": (200_000, 0)}
# What Q and DQ add to each layer.
_QUANTIZED = {"stage": 400_000, "vision": 250_000}
# Graphs without layers compile to about so many bytes for each byte of their nodes.
_SMALL_KERNELS, _KERNEL_BYTES_BY_NODE_BYTE, _MOST_NODE_BYTES = 400_000, 170, 17_000
# Peak memory: of a process that builds anything, of each layer, and for each byte of weights.
_BUILD, _LAYER_BUILD, _WEIGHT_COPIES = 220_000_000, 13_000_000, 3.0


@dataclass(frozen=True, slots=True)
class EngineForecast:
    """Of one engine, in bytes."""

    weight_bytes: int
    plan_bytes: int
    peak_bytes: int


def forecast_engine(
    manifest: Manifest, graph: str, profiles: tuple[Profile, ...], target: str
) -> EngineForecast:
    """Forecast one engine.

    Args:
        manifest: Of the bundle.
        graph: The graph's name.
        profiles: Its profiles; TensorRT-RTX stores the weights once for each.
        target: "tensorrt" or "tensorrt-rtx".
    """
    spec = manifest.graphs[graph]
    weights = spec.size_bytes + sum(manifest.files[file].size_bytes for file in spec.weights)
    layers = _num_layers(manifest, graph)
    stored = weights * (len(profiles) if target == "tensorrt-rtx" else 1)
    plan = stored + _kernel_bytes(manifest, graph, layers)
    copies = _WEIGHT_COPIES * weights + 2.0 * (stored - weights)
    peak = _BUILD + layers * _LAYER_BUILD + round(copies)
    return EngineForecast(weights, plan, peak)


def _kernel_bytes(manifest: Manifest, graph: str, layers: int) -> int:
    stages = {stage.graph for stage in manifest.stages}
    kind = "stage" if graph in stages else "ends" if graph in ("embed", "head") else graph
    if kind in _KERNELS:
        base, each = _KERNELS[kind]
        each += _QUANTIZED.get(kind, 0) if manifest.quantization else 0
        return base + layers * each
    nodes = min(manifest.graphs[graph].size_bytes, _MOST_NODE_BYTES)
    return _SMALL_KERNELS + _KERNEL_BYTES_BY_NODE_BYTE * nodes


def _num_layers(manifest: Manifest, graph: str) -> int:
    """Transformer layers of a graph."""
    if graph == "vision" and manifest.vision is not None:
        return manifest.vision.num_layers
    return {stage.graph: stage.num_layers for stage in manifest.stages}.get(graph, 0)
