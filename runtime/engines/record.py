"""The build record of an engine: what was asked for, and what came of it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

from sparsevlm_trt.runtime.engines.profiles import Range
from sparsevlm_trt.runtime.errors import EngineError
from sparsevlm_trt.runtime.problems import told_at_once
from sparsevlm_trt.runtime.strict_json import decode, encode, json_text, parse_json

__all__ = ["RECORD_VERSION", "EngineRecord", "EngineSpec", "Machine"]

RECORD_VERSION = 1


@dataclass(frozen=True, slots=True)
class Machine:
    """What an engine is bound to.

    Attributes:
        target: "tensorrt" or "tensorrt-rtx".
        version: Of the library, `1.7.1.116`.
        gpu: Name of the GPU it was tuned on; "" where it was built for any of `capabilities`.
        capabilities: Compute capabilities, `89`; for TensorRT-RTX none means Ampere and later.
    """

    target: str
    version: str
    gpu: str
    capabilities: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class EngineSpec:
    """What an engine is built from; two with the same key are the same engine.

    Attributes:
        graph_sha256: Of the ONNX file, which names its weight files by their hashes.
        precision: The model's type.
        machine: Library and GPU.
        profiles: Shape ranges by input, one mapping for each profile.
        flags: Builder settings that change the plan, as text.
    """

    graph_sha256: str
    precision: str
    machine: Machine
    profiles: tuple[Mapping[str, Range], ...]
    flags: Mapping[str, str]

    @property
    def key(self) -> str:
        """SHA-256 of all of it, hexadecimal."""
        return hashlib.sha256(json_text(encode(self)).encode("ascii")).hexdigest()


@dataclass(frozen=True, slots=True)
class EngineRecord:
    """An engine that was built.

    Attributes:
        graph: Name of the graph.
        spec: What it was built from.
        plan_file: Its file, beside the record.
        plan_sha256: Hash of that file.
        plan_bytes: Size of that file.
        weight_bytes: What the library says its weights take.
        activation_bytes: Device memory that one execution context needs.
        scratch_bytes: The largest scratch memory of one layer, from the builder's log.
        attention: Whether a stage's attention was fused, see `fusion`; "" for other graphs.
        peak_bytes: Peak memory of the process that built it.
        build_ms: Time of parsing and building, milliseconds.
        num_layers: Layers of the parsed network.
        arguments: What `sparsevlm compile` was told, to build it again.
        record_version: Of this form.
    """

    graph: str
    spec: EngineSpec
    plan_file: str
    plan_sha256: str
    plan_bytes: int
    weight_bytes: int
    activation_bytes: int
    scratch_bytes: int
    attention: str
    peak_bytes: int
    build_ms: int
    num_layers: int
    arguments: tuple[str, ...]
    record_version: int = RECORD_VERSION

    @classmethod
    def from_text(cls, text: str | bytes, where: str, remedy: str) -> EngineRecord:
        """Read a record.

        Args:
            text: The file's content.
            where: The file, for the error.
            remedy: The command that builds it again.

        Raises:
            EngineError: Not a record of this version.
        """
        problems: list[str] = []
        try:
            value = parse_json(text)
        except ValueError as error:
            raise EngineError(f"{where} | not strict JSON: {error} | {remedy}") from error
        version = value.get("record_version") if isinstance(value, dict) else None
        if type(version) is int and version != RECORD_VERSION:
            raise EngineError(
                f"{where} | record_version {version} | expected {RECORD_VERSION} | {remedy}"
            )
        record = decode(cls, value, "", problems)
        if problems:
            raise EngineError(told_at_once(where, problems, remedy))
        assert isinstance(record, cls)
        return record

    def to_text(self) -> str:
        """The text of the record's file."""
        return json_text(encode(self))
