"""Trace a graph module to a standard-operator ONNX model, weights still elsewhere."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import onnx_ir as ir
import torch

from sparsevlm_ops.onnx_topk import onnx_translations
from sparsevlm_trt.export.formats import OPSETS
from sparsevlm_trt.export.graph_module import GraphModule
from sparsevlm_trt.export.onnx_passes import (
    check_standard,
    gemm_from_transposes,
    name_dims,
    name_nodes,
    tidy,
)
from sparsevlm_trt.runtime.errors import ExportError

__all__ = ["onnx_from_module"]

MARK_LENGTH = 64  # values that tell one placeholder from another


def onnx_from_module(graph: GraphModule, opset: int) -> ir.Model:
    """Trace one graph.

    Args:
        graph: Module, example inputs and names.
        opset: ONNX opset version, one of `formats.OPSETS`.

    Returns:
        The model. Parameters that were on the meta device are initializers of the same name,
        their values to be bound to files by the caller.

    Raises:
        ExportError: The module cannot be traced, or uses an operator outside the standard set.
    """
    if opset not in OPSETS:
        raise ExportError(
            f"opset | got {opset} | expected one of {', '.join(map(str, OPSETS))} "
            "| older opsets lack Attention and RotaryEmbedding"
        )
    # Never-touched pages: the tracer wants ordinary tensors, and reads none of them.
    module = _materialized(graph.module).eval()
    try:
        with _quiet(), torch.no_grad():
            program = torch.onnx.export(
                module,
                tuple(graph.inputs.values()),
                dynamo=True,
                opset_version=opset,
                dynamic_shapes=graph.dynamic_shapes(),
                input_names=list(graph.input_names),
                output_names=list(graph.outputs),
                custom_translation_table=onnx_translations(),
                optimize=True,
                verbose=False,
            )
    except torch.onnx.OnnxExporterError as error:
        reason = str(error.__cause__ or error).splitlines()[0]
        raise ExportError(
            f"graph {graph.name} | tracing failed: {reason} | expected a traceable module "
            "| report it with the checkpoint's config.json"
        ) from error
    assert program is not None
    model = program.model
    tidy(model)
    gemm_from_transposes(model)
    name_nodes(model)
    name_dims(model, graph)
    check_standard(model, graph.name)
    _check_weights(model, graph)
    return model


def _materialized(module: torch.nn.Module) -> torch.nn.Module:
    marks = torch.Generator().manual_seed(0)
    for owner in module.modules():
        for name, parameter in list(owner.named_parameters(recurse=False)):
            if parameter.is_meta:
                empty = torch.empty(parameter.shape, dtype=parameter.dtype)
                # The exporter merges initializers of equal content: no two may start alike.
                start = empty.view(-1)[:MARK_LENGTH]
                start.copy_(torch.rand(start.shape, generator=marks))
                setattr(owner, name, torch.nn.Parameter(empty, requires_grad=False))
    return module


def _check_weights(model: ir.Model, graph: GraphModule) -> None:
    lost = sorted(set(graph.weights) - set(model.graph.initializers))
    if lost:
        raise ExportError(
            f"graph {graph.name} | tracing lost {', '.join(lost)} | expected every weight in the "
            "graph | this is a bug of the exporter, report it"
        )


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence what the exporter says of things that do not concern a user of ours."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
