"""What a target would refuse or get wrong, found in the parsed network before anything is built.

The parser names most objections itself. These are the others: they cost minutes of building until
they fail, or build and compute something else.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from sparsevlm_trt.runtime.engines.profiles import MAX_TOPK, Profile
from sparsevlm_trt.runtime.tensorrt.network import ParsedNetwork

__all__ = ["network_problems"]

_NODE = "[ONNX Layer: "  # how the parser remembers the node that a layer is of
# Layers that hand a constant on.
_TRANSPARENT = ("SHUFFLE", "CAST", "IDENTITY", "UNSQUEEZE", "SQUEEZE")


def network_problems(parsed: ParsedNetwork, profiles: tuple[Profile, ...]) -> list[str]:
    """Say all that is wrong with a graph, `node NAME (Operator) | got | expected`.

    Args:
        parsed: The graph as TensorRT read it.
        profiles: The shapes it is to be built for.
    """
    if parsed.problems:
        return list(parsed.problems)
    layers = [(layer, parsed.trt.ILayer.type.fget(layer).name) for layer in parsed.network]
    return [
        *_attention_problems(parsed, layers),
        *_topk_problems(parsed, layers, profiles),
    ]


def _attention_problems(parsed: ParsedNetwork, layers: list[tuple[Any, str]]) -> Iterator[str]:
    """A causal mask beside a cache; a type that no fused kernel takes."""
    trt = parsed.trt
    producers = _producers(layers)
    for layer, kind in layers:
        if kind != "ATTENTION_INPUT":
            continue
        layer.__class__ = trt.IAttentionInputLayer  # the bindings give the base class
        attention = layer.attention
        name = _node_name(attention.metadata, attention.name)
        query, keys = layer.get_input(0), layer.get_input(1)
        if query.dtype == trt.float32 and not attention.decomposable:
            yield (
                f"node {name} (Attention) | float32 | expected float16 or bfloat16: there is no "
                "fused kernel for it, and the build fails"
            )
        if not attention.causal or "LOWER" in attention.causal_kind.name:
            continue
        extra = _sources(keys, producers) - _sources(query, producers)
        if extra:
            told = ", ".join(sorted(extra)[:3])
            yield (
                f"node {name} (Attention) | is_causal with keys that also come from {told} | "
                "expected a mask input: the flag means the upper left corner, so that with a "
                "cache a token sees its first keys only"
            )


def _topk_problems(
    parsed: ParsedNetwork, layers: list[tuple[Any, str]], profiles: tuple[Profile, ...]
) -> Iterator[str]:
    """A K above what TopK can return, constant or by the profile of the input that it is."""
    producers = _producers(layers)
    for layer, kind in layers:
        if kind != "TOPK" or layer.num_inputs < 2:
            continue
        most = _largest(layer.get_input(1), producers, parsed.trt, profiles)
        if most is not None and most > MAX_TOPK:
            name = _node_name(layer.metadata, layer.name)
            yield (
                f"node {name} (TopK) | K up to {most} | expected {MAX_TOPK} at most, TensorRT's "
                "limit"
            )


def _largest(
    tensor: Any, producers: dict[str, Any], trt: Any, profiles: tuple[Profile, ...]
) -> int | None:
    """The largest value of a size; None where it is computed."""
    while True:
        layer = producers.get(tensor.name)
        if layer is None:
            ranges = [profile[tensor.name] for profile in profiles if tensor.name in profile]
            return max((max(one.max) for one in ranges), default=None)
        kind = trt.ILayer.type.fget(layer).name
        if kind == "CONSTANT":
            layer.__class__ = trt.IConstantLayer
            return int(layer.weights.max())
        if kind not in _TRANSPARENT:
            return None
        tensor = layer.get_input(0)


def _producers(layers: list[tuple[Any, str]]) -> dict[str, Any]:
    """The layer that makes each tensor, by the tensor's name."""
    return {
        layer.get_output(i).name: layer for layer, _ in layers for i in range(layer.num_outputs)
    }


def _sources(tensor: Any, producers: dict[str, Any]) -> set[str]:
    """The network inputs that a tensor depends on."""
    found: set[str] = set()
    seen: set[str] = set()
    waiting = [tensor]
    while waiting:
        one = waiting.pop()
        if one is None or one.name in seen:
            continue
        seen.add(one.name)
        layer = producers.get(one.name)
        if layer is None:
            found.add(one.name)
            continue
        waiting += [layer.get_input(i) for i in range(layer.num_inputs)]
    return found


def _node_name(metadata: str, fallback: str) -> str:
    """The ONNX node's name."""
    return metadata.partition(_NODE)[2].partition("]")[0] or fallback
