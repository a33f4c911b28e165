"""A bundle and its checkpoint for each family; graphs that families share are traced once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import onnx_ir as ir
import pytest
import torch

from sparsevlm_trt.export import export_bundle, exporter
from sparsevlm_trt.export.parity.case import Sides
from sparsevlm_trt.export.parity.recorder import RecordingRunner
from sparsevlm_trt.export.parity.reference_model import ReferenceModel
from sparsevlm_trt.runtime.bundle import Bundle
from sparsevlm_trt.runtime.ort import OnnxRuntimeRunner
from sparsevlm_trt.runtime.session import Session

NUM_TOKENS = 16
SCHEDULE = {1: 9}


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    """Tiny products end sooner than a second thread wakes up: ten times, on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def family_bundle_of(
    tmp_path_factory: pytest.TempPathFactory, checkpoint_of: Callable[[str], Path]
) -> Callable[..., Path]:
    """A bundle of three layers cut after the second; prune graphs are the same for all."""
    traced: dict[Any, Any] = {}
    made: dict[tuple[str, str], Path] = {}
    trace = exporter.onnx_from_module

    def trace_once(graph: Any, opset: int) -> ir.Model:
        if not graph.name.startswith(("prune_", "raters")):
            return trace(graph, opset)
        shapes = [
            (tuple(value.shape), value.dtype)
            for value in graph.inputs.values()
            if isinstance(value, torch.Tensor)
        ]
        key = (graph.name, str(shapes))
        if key not in traced:
            traced[key] = ir.serde.serialize_model(trace(graph, opset))
        return ir.serde.deserialize_model(traced[key])

    def make(kind: str, dtype: str = "float32") -> Path:
        if (kind, dtype) not in made:
            out = tmp_path_factory.mktemp("families") / f"{kind}-{dtype}"
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(exporter, "onnx_from_module", trace_once)
                made[kind, dtype] = export_bundle(
                    checkpoint_of(kind), out, schedule=SCHEDULE, dtype=dtype
                )
        return made[kind, dtype]

    return make


@pytest.fixture(scope="session")
def family_sides(
    family_bundle_of: Callable[..., Path], checkpoint_of: Callable[[str], Path]
) -> Iterator[Callable[[str], Sides]]:
    """The chain and transformers' model of a family, ready to be asked."""
    made: dict[str, Sides] = {}

    def make(kind: str) -> Sides:
        if kind not in made:
            opened = Bundle.open(family_bundle_of(kind))
            runner = RecordingRunner(OnnxRuntimeRunner())
            runner.load(opened, list(opened.manifest.graphs))
            reference = ReferenceModel(checkpoint_of(kind), opened.manifest)
            made[kind] = Sides(Session(opened, runner), runner, reference, NUM_TOKENS)
        return made[kind]

    yield make
    for sides in made.values():
        sides.session.close()


@pytest.fixture
def record(request: pytest.FixtureRequest) -> Callable[..., None]:
    """Remember what a test found, for `docs/models.md`; see `benchmarks/models_table.py`."""

    def remember(kind: str, case: str, **found: Any) -> None:
        cache = request.config.cache
        assert cache is not None
        known = cache.get(f"sparsevlm/{kind}", {})
        cache.set(f"sparsevlm/{kind}", known | {case: found})

    return remember
