"""The names others script against, and the promise that they stay."""

from __future__ import annotations

import ast
import importlib
import inspect
from dataclasses import fields
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def test_export_bundle_signature():
    from sparsevlm_trt.export import export_bundle

    parameters = inspect.signature(export_bundle).parameters
    assert list(parameters)[:2] == ["checkpoint", "out"]
    defaults = {name: p.default for name, p in parameters.items()}
    assert defaults["method"] == "sparsevlm"
    assert defaults["budget"] is None
    assert defaults["schedule"] is None
    assert defaults["dtype"] == "float32"
    keyword_only = [p.kind is p.KEYWORD_ONLY for name, p in parameters.items()][2:]
    assert all(keyword_only)


def test_session_result_and_trace_names():
    from sparsevlm_trt.runtime import Result, Session, Trace
    from sparsevlm_trt.runtime.trace import StageTrace

    for method in ("load", "generate", "generate_from_embeds", "generate_batch", "stream"):
        assert callable(getattr(Session, method))
    assert {"tokens", "text", "prefill_logits", "step_logits", "trace"} <= {
        field.name for field in fields(Result)
    }
    assert {"stages", "kv_bytes", "timings_ms"} <= {field.name for field in fields(Trace)}
    assert {"layer", "num_visual_in", "num_visual_out", "kept", "scores"} <= {
        field.name for field in fields(StageTrace)
    }


@pytest.mark.parametrize(
    "package", ["sparsevlm_ops", "sparsevlm_trt.runtime", "sparsevlm_trt.export"]
)
def test_every_public_name_exists(package):
    module = importlib.import_module(package)
    assert module.__all__
    for name in module.__all__:
        assert getattr(module, name) is not None


@pytest.mark.parametrize("room", ["export", "runtime", "sparsevlm_ops"])
def test_every_module_says_what_it_is(room):
    silent = [
        str(path.relative_to(ROOT))
        for path in (ROOT / room).rglob("*.py")
        if not ast.get_docstring(ast.parse(path.read_text()))
    ]
    assert not silent
