"""Both sides of a comparison on tiny models, and a way to cut one model in many ways fast."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import onnx_ir as ir
import pytest
import torch
from transformers import LlavaForConditionalGeneration

from sparsevlm_trt.export import export_bundle, exporter
from sparsevlm_trt.export.parity.case import Sides
from sparsevlm_trt.export.parity.reference_model import ReferenceModel
from sparsevlm_trt.runtime.bundle import Bundle
from sparsevlm_trt.runtime.ort import OnnxRuntimeRunner
from sparsevlm_trt.runtime.recording import RecordingRunner
from sparsevlm_trt.runtime.session import Session

SHORT = 4  # layers: small enough for every way of cutting them


def _open(bundle: Path, checkpoint: Path, num_tokens: int) -> Sides:
    opened = Bundle.open(bundle)
    runner = RecordingRunner(OnnxRuntimeRunner())
    runner.load(opened, list(opened.manifest.graphs))
    reference = ReferenceModel(checkpoint, opened.manifest)
    return Sides(Session(opened, runner), runner, reference, num_tokens)


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    """Tiny products end sooner than a second thread wakes up: ten times, on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def open_sides() -> Iterator[Callable[[Path, Path, int], Sides]]:
    """A bundle and its checkpoint, ready to be asked; closed after the test."""
    opened: list[Sides] = []

    def make(bundle: Path, checkpoint: Path, num_tokens: int) -> Sides:
        opened.append(_open(bundle, checkpoint, num_tokens))
        return opened[-1]

    yield make
    for sides in opened:
        sides.session.close()


@pytest.fixture(scope="session")
def sides_of(
    bundle_of: Callable[..., Path], checkpoint_of: Callable[[str], Path]
) -> Iterator[Callable[[str], Sides]]:
    made: dict[str, Sides] = {}

    def make(kind: str) -> Sides:
        if kind not in made:
            made[kind] = _open(bundle_of(kind), checkpoint_of(kind), 8)
        return made[kind]

    yield make
    for sides in made.values():
        sides.session.close()


@pytest.fixture(scope="session")
def short_of(
    tmp_path_factory: pytest.TempPathFactory, checkpoint_of: Callable[[str], Path]
) -> Callable[[str], Path]:
    """The first layers of a tiny LLaVA, as a checkpoint of their own."""
    made: dict[str, Path] = {}

    def make(kind: str) -> Path:
        if kind not in made:
            source = checkpoint_of(kind)
            folder = tmp_path_factory.mktemp("short") / kind
            config = json.loads((source / "config.json").read_text())
            config["text_config"]["num_hidden_layers"] = SHORT
            config["text_config"].pop("layer_types", None)
            shutil.copytree(source, folder)
            (folder / "config.json").write_text(json.dumps(config))
            model = LlavaForConditionalGeneration.from_pretrained(folder)
            model.save_pretrained(folder)
            made[kind] = folder
        return made[kind]

    return make


@pytest.fixture(scope="module")
def export_cut(
    tmp_path_factory: pytest.TempPathFactory, short_of: Callable[[str], Path]
) -> Iterator[Callable[[str, tuple[int, ...]], Path]]:
    """Export a short checkpoint cut anywhere; graphs that two cuts share are traced once."""
    traced: dict[tuple[Any, ...], Any] = {}
    trace = exporter.onnx_from_module
    kind = ""

    def trace_once(graph: Any, opset: int) -> ir.Model:
        layers = tuple(graph.module.layers) if hasattr(graph.module, "layers") else graph.name
        key = (kind, layers)
        if key not in traced:
            traced[key] = ir.serde.serialize_model(trace(graph, opset))
        return ir.serde.deserialize_model(traced[key])

    def export(of: str, boundaries: tuple[int, ...]) -> Path:
        nonlocal kind
        kind = of
        out = tmp_path_factory.mktemp("cuts") / "bundle"
        return export_bundle(short_of(of), out, method="none", boundaries=boundaries)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(exporter, "onnx_from_module", trace_once)
        yield export
