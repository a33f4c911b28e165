"""Reports on bundles and graphs as tables for people."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from sparsevlm_trt.runtime.table import format_fields, format_table
from sparsevlm_trt.runtime.units import spell_bytes, spell_count, spell_cut

__all__ = ["bundle_text", "cost_text", "graph_text"]

Report = Mapping[str, Any]

_LAYER_TENSOR = re.compile(r"(.+)\.(\d+)\.(key|value)")


def bundle_text(report: Report) -> str:
    """Tell what a bundle holds; `report` is `bundle_report`'s."""
    model, vision, plan = report["model"], report["vision"], report["plan"]
    family = f"{model['model_type']} with a {model['text_model_type']} language model"
    heads = f"{model['num_heads']} heads, {model['num_kv_heads']} of keys and values"
    sees = "none: embeddings come from outside"
    if vision:
        sees = f"{vision['num_visual']} tokens for an image of {_size(vision['image_size'])}"
        sees += f" pixels, a grid of {_size(vision['grid'])}"
    tools = ", ".join(f"{name} {version}" for name, version in report["tools"].items())
    budget = f"budget {plan['budget']}, " if plan["budget"] else ""
    schedule = ",".join(f"{layer}:{kept}" for layer, kept in plan["schedule"].items())
    cuts = ", ".join(map(str, plan["boundaries"])) or "none"
    prunes = f"{plan['method']}, {budget}schedule {schedule or 'none'} ({plan['source']})"
    dtype = model["dtype"]
    if model["residual_shift"]:
        dtype += f", hidden states times 2^-{model['residual_shift']}"
    fields = [
        ("bundle", report["bundle"]),
        ("model", f"{model['source']}: {family}, {dtype}"),
        ("layers", f"{model['num_layers']} of width {model['hidden_size']}, {heads}"),
        ("vision", sees),
        ("by default", prunes),
        ("can prune", f"after layers {cuts} by {', '.join(plan['methods'])}"),
        ("size", f"{spell_bytes(report['size_bytes'])} in {report['num_files']} files"),
        ("made with", tools),
    ]
    layers = {
        stage["graph"]: f"{stage['first']}-{stage['stop'] - 1}" for stage in report["stages"]
    }
    graphs = [
        (name, layers.get(name), spell_bytes(graph["graph_bytes"]), _weights(graph))
        for name, graph in report["graphs"].items()
    ]
    tensors = [
        (name, *row) for name, graph in report["graphs"].items() for row in _tensor_rows(graph)
    ]
    return "\n\n".join(
        [
            format_fields(fields),
            format_table(["graph", "layers", "file", "weights"], graphs),
            format_table(["graph", "side", "tensor", "type", "shape"], tensors),
        ]
    )


def cost_text(report: Report) -> str:
    """Tell what a prompt costs; `report` is `cost_report`'s."""
    rows = [
        (
            stage["graph"],
            stage["num_layers"],
            stage["num_visual"],
            stage["num_tokens"],
            spell_count(stage["prefill_flops"], "FLOP"),
            spell_bytes(stage["kv_bytes"]),
        )
        for stage in report["stages"]
    ]
    header = ["stage", "layers", "visual tokens", "all tokens", "prefill", "KV cache"]
    plan = report["method"] + (f", {report['schedule']}" if report["schedule"] else "")
    average = (
        f"{report['computed_average_visual_tokens']:.1f} per layer as computed, "
        f"{report['nominal_average_visual_tokens']:.1f} nominal"
    )
    fields = [
        ("prompt", f"{report['num_visual']} visual + {report['num_text']} other tokens; {plan}"),
        ("schedule", report["schedule_source"] or "none"),
        ("positions", report["positions"]),
        ("visual tokens", average),
        ("prefill", _cut(report, "prefill_flops", "FLOP", "prefill_cut") + ", as computed"),
        (
            "",
            _cut(report, "paper_multiply_adds", "MAC", "paper_cut")
            + ", nominal: the paper's formula, a pruning layer counted with its output",
        ),
        ("vision", spell_count(report["vision_flops"], "FLOP")),
        ("first logits", spell_count(report["total_flops"], "FLOP") + " in all, head included"),
        ("one more token", spell_count(report["decode_flops"], "FLOP")),
        ("KV cache", _cut(report, "kv_bytes", "B", "kv_cut")),
    ]
    return f"{format_table(header, rows)}\n\n{format_fields(fields)}"


def graph_text(report: Report) -> str:
    """Tell what one ONNX file holds; `report` is `graph_report`'s."""
    opsets = ", ".join(f"{domain or 'ai.onnx'} {v}" for domain, v in report["opsets"].items())
    fields = [
        ("graph", report["file"]),
        ("opset", f"{opsets} (IR version {report['ir_version']})"),
        ("made by", report["producer"] or "unknown"),
        ("size", spell_bytes(report["graph_bytes"])),
        ("weights", f"{spell_bytes(report['weight_bytes'])} in {report['num_weights']} tensors"),
        ("kept in", ", ".join(report["weight_files"]) or "the graph itself"),
    ]
    if report["missing_files"]:
        fields.append(("missing", ", ".join(report["missing_files"])))
    operators = sorted(report["operators"].items(), key=lambda item: (-item[1], item[0]))
    return "\n\n".join(
        [
            format_fields(fields),
            format_table(["side", "tensor", "type", "shape"], _tensor_rows(report)),
            format_table(["operator", "nodes"], operators),
        ]
    )


def _cut(report: Report, name: str, unit: str, cut: str) -> str:
    """Spell a cost, the unpruned one and what is saved."""
    got, whole = (spell_count(report[key], unit) for key in (name, f"unpruned_{name}"))
    return f"{got} of {whole} unpruned ({spell_cut(report[cut])})"


def _tensor_rows(graph: Report) -> list[tuple[str, str, str, str]]:
    """List inputs and outputs; caches of consecutive layers that are alike share a row."""
    rows: list[tuple[str, str, str, str]] = []
    for side in ("inputs", "outputs"):
        layers: dict[tuple[str, str, str], list[int]] = {}
        plain = []
        for tensor in graph[side]:
            found = _LAYER_TENSOR.fullmatch(tensor["name"])
            kind, shape = tensor["dtype"], _shape(tensor["shape"])
            if found is None:
                plain.append((side[:-1], tensor["name"], kind, shape))
            else:
                key = (f"{found[1]}.{{}}.{found[3]}", kind, shape)
                layers.setdefault(key, []).append(int(found[2]))
        rows += plain
        rows += [
            (side[:-1], name.format(_span(numbers)), kind, shape)
            for (name, kind, shape), numbers in layers.items()
        ]
    return rows


def _span(numbers: Sequence[int]) -> str:
    first, last = min(numbers), max(numbers)
    if sorted(numbers) != list(range(first, last + 1)):
        return "{" + ",".join(map(str, numbers)) + "}"
    return str(first) if first == last else f"{{{first}..{last}}}"


def _shape(dims: Sequence[int | str]) -> str:
    return f"[{', '.join(map(str, dims))}]"


def _size(pair: Sequence[int]) -> str:
    return f"{pair[0]} x {pair[1]}"


def _weights(graph: Report) -> str | None:
    return spell_bytes(graph["weight_bytes"]) if graph["weight_bytes"] else None
