"""The manifest of a bundle: the typed form of `bundle.json`, and the only place that reads it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from sparsevlm_trt.runtime.errors import BundleError
from sparsevlm_trt.runtime.graph_spec import FileSpec, GraphSpec, Link, StageSpec
from sparsevlm_trt.runtime.model_spec import ModelSpec, VisionSpec
from sparsevlm_trt.runtime.problems import told_at_once
from sparsevlm_trt.runtime.spec_checks import one_of, repeats
from sparsevlm_trt.runtime.strict_json import decode, encode, json_text, parse_json

__all__ = ["FORMAT_VERSION", "Manifest", "PlanSpec", "QuantizationSpec"]

FORMAT_VERSION = 3
GRAPH_NAME = re.compile(r"[A-Za-z0-9_+\-]+")  # no dot: a link is spelled graph.tensor
REMEDY = "export the bundle again"


@dataclass(frozen=True, slots=True)
class PlanSpec:
    """How the chain prunes unless a request says otherwise, and where it can.

    Attributes:
        method: The default method.
        methods: All methods the bundle can run: those with a prune graph, and "none".
        boundaries: The layers after which a prune step may stand, ascending.
        budget: The nominal average of visual tokens, where the schedule came from one.
        schedule: Tokens kept after each pruning layer.
        source: Where the schedule comes from.
    """

    method: str
    methods: tuple[str, ...]
    boundaries: tuple[int, ...]
    budget: int | None
    schedule: Mapping[int, int]
    source: str

    def problems(self, where: str) -> Iterator[str]:
        """Say what no plan can be."""
        yield from one_of(f"{where}.method", self.method, self.methods)
        yield from repeats(f"{where}.methods", list(self.methods))
        if list(self.boundaries) != sorted({layer for layer in self.boundaries if layer >= 0}):
            yield f"{where}.boundaries | got {list(self.boundaries)} | expected ascending layers"
        if self.budget is not None and self.budget < 1:
            yield f"{where}.budget | got {self.budget} | expected 1 or more, or null"
        for layer, kept in sorted(self.schedule.items()):
            if kept < 1:
                yield f"{where}.schedule[{layer}] | got {kept} | expected 1 or more"
            if layer not in self.boundaries:
                yield (
                    f"{where}.schedule[{layer}] | no boundary after layer {layer} | "
                    f"expected one of {list(self.boundaries)}"
                )


@dataclass(frozen=True, slots=True)
class QuantizationSpec:
    """How a bundle was quantised, and from what.

    Attributes:
        scheme: Name of the scheme, `int8`.
        source_sha256: Hash of the `bundle.json` that it was made from.
        data_sha256: Hash of the questions that it was calibrated on.
        num_samples: How many of these were asked.
        ranges_sha256: Hash of the ranges and scales that were found.
        num_sites: Activations whose linears are quantised.
        kept_sites: Those that are left as they were, by name.
    """

    scheme: str
    source_sha256: str
    data_sha256: str
    num_samples: int
    ranges_sha256: str
    num_sites: int
    kept_sites: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Manifest:
    """All that `bundle.json` says."""

    model: ModelSpec
    vision: VisionSpec | None
    plan: PlanSpec
    stages: tuple[StageSpec, ...]
    graphs: Mapping[str, GraphSpec]
    links: tuple[Link, ...]
    files: Mapping[str, FileSpec]
    tools: Mapping[str, str]
    format_version: int = FORMAT_VERSION
    quantization: QuantizationSpec | None = field(default=None, metadata={"optional": True})

    def problems(self, where: str) -> Iterator[str]:
        """Say what no manifest can be, whatever lies on the disk."""
        for name in self.graphs:
            if not GRAPH_NAME.fullmatch(name):
                yield f"graphs[{name}] | not a graph's name | expected letters, digits, _ + -"

    @classmethod
    def from_json(cls, value: object) -> Manifest:
        """Read the parsed `bundle.json`.

        Raises:
            BundleError: Another format version; or every unknown, missing and ill-typed key.
        """
        version = value.get("format_version") if isinstance(value, dict) else None
        if type(version) is int and version != FORMAT_VERSION:
            raise BundleError(
                f"bundle.json | format_version {version} | this reader knows {FORMAT_VERSION} | "
                f"install the sparsevlm-trt that wrote the bundle, or {REMEDY}"
            )
        problems: list[str] = []
        manifest = decode(cls, value, "", problems)
        if problems:
            raise BundleError(told_at_once("bundle.json", problems, REMEDY))
        assert isinstance(manifest, cls)
        return manifest

    @classmethod
    def from_text(cls, text: str | bytes) -> Manifest:
        """Read the text of `bundle.json`.

        Raises:
            BundleError: Not JSON, or as `from_json`.
        """
        try:
            value = parse_json(text)
        except ValueError as error:
            raise BundleError(
                f"bundle.json | not strict JSON: {error} | expected what the exporter wrote | "
                f"{REMEDY}"
            ) from error
        return cls.from_json(value)

    def to_json(self) -> dict[str, Any]:
        """The manifest as plain JSON values; `from_json` gives the same manifest back."""
        plain: dict[str, Any] = encode(self)
        return plain

    def to_text(self) -> str:
        """The text of `bundle.json`: the same manifest is always the same bytes."""
        return json_text(self.to_json())
