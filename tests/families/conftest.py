"""Both sides of every family: its modules behind the chain, and transformers' model."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch_chain import torch_bundle

from sparsevlm_trt.export import export_bundle
from sparsevlm_trt.export.parity.case import Sides
from sparsevlm_trt.export.parity.reference_model import ReferenceModel
from sparsevlm_trt.runtime.bundle import Bundle
from sparsevlm_trt.runtime.ort import OnnxRuntimeRunner
from sparsevlm_trt.runtime.recording import RecordingRunner
from sparsevlm_trt.runtime.session import Session

NUM_TOKENS = 16
SCHEDULE = {1: 9}
METHODS = ("sparsevlm", "fastv")


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
    """An exported bundle of three layers, cut after the second."""
    made: dict[tuple[str, str], Path] = {}

    def make(kind: str, dtype: str = "float32") -> Path:
        if (kind, dtype) not in made:
            out = tmp_path_factory.mktemp("families") / f"{kind}-{dtype}"
            made[kind, dtype] = export_bundle(
                checkpoint_of(kind), out, schedule=SCHEDULE, dtype=dtype
            )
        return made[kind, dtype]

    return make


@pytest.fixture(scope="session")
def torch_sides(
    tmp_path_factory: pytest.TempPathFactory, checkpoint_of: Callable[[str], Path]
) -> Iterator[Callable[[str], Sides]]:
    """The chain on the family's modules, and transformers' model."""
    made: dict[str, Sides] = {}

    def make(kind: str) -> Sides:
        if kind not in made:
            folder = tmp_path_factory.mktemp("modules") / kind
            bundle, modules = torch_bundle(checkpoint_of(kind), folder, SCHEDULE, METHODS)
            runner = RecordingRunner(modules)
            reference = ReferenceModel(checkpoint_of(kind), bundle.manifest)
            made[kind] = Sides(Session(bundle, runner), runner, reference, NUM_TOKENS)
        return made[kind]

    yield make
    for sides in made.values():
        sides.session.close()


@pytest.fixture(scope="session")
def onnx_sides(
    family_bundle_of: Callable[..., Path], checkpoint_of: Callable[[str], Path]
) -> Iterator[Callable[[str], Sides]]:
    """The exported chain, and transformers' model."""
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
