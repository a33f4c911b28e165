"""The manifest of a bundle: the typed form of `bundle.json`, and the only place that knows it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from sparsevlm_trt.runtime.errors import BundleError
from sparsevlm_trt.runtime.problems import told_at_once
from sparsevlm_trt.runtime.strict_json import decode, encode, json_text, parse_json

__all__ = [
    "FORMAT_VERSION",
    "FileSpec",
    "GraphSpec",
    "Link",
    "Manifest",
    "ModelSpec",
    "PlanSpec",
    "QuantizationSpec",
    "StageSpec",
    "TensorSpec",
    "VisionSpec",
]

FORMAT_VERSION = 2
TENSOR_DTYPES = ("float32", "float16", "bfloat16", "int64", "int32", "int8", "uint8", "bool")
MODEL_DTYPES = ("float32", "float16")
CACHE_DTYPES = (*MODEL_DTYPES, "int8")
GRAPH_NAME = re.compile(r"[A-Za-z0-9_+\-]+")  # no dot: a link is spelled graph.tensor
SHA256 = re.compile(r"[0-9a-f]{64}")
REMEDY = "export the bundle again"


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """An input or output of a graph; a dim is a size, or the name of a dynamic one."""

    name: str
    dtype: str
    shape: tuple[int | str, ...]

    def problems(self, where: str) -> Iterator[str]:
        """Say what no tensor can be."""
        if not self.name:
            yield f"{where}.name | got an empty name | expected a tensor's name"
        yield from _one_of(f"{where}.dtype", self.dtype, TENSOR_DTYPES)
        for index, dim in enumerate(self.shape):
            if dim == "" or (isinstance(dim, int) and dim < 1):
                yield f"{where}.shape[{index}] | got {dim!r} | expected 1 or more, or a name"


@dataclass(frozen=True, slots=True)
class FileSpec:
    """What a file of the bundle must be: its SHA-256 (hexadecimal) and its size in bytes."""

    sha256: str
    size_bytes: int

    def problems(self, where: str) -> Iterator[str]:
        """Say what no file can be."""
        yield from _hash_problems(where, self.sha256, self.size_bytes)


@dataclass(frozen=True, slots=True)
class GraphSpec:
    """One ONNX graph: its file, what goes in and out, and the weight files that it reads."""

    file: str
    sha256: str
    size_bytes: int
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    weights: tuple[str, ...]

    def problems(self, where: str) -> Iterator[str]:
        """Say what no graph can be."""
        yield from _hash_problems(where, self.sha256, self.size_bytes)
        for side, tensors in (("inputs", self.inputs), ("outputs", self.outputs)):
            yield from _repeats(f"{where}.{side}", [tensor.name for tensor in tensors])
        yield from _repeats(f"{where}.weights", list(self.weights))

    def input(self, name: str) -> TensorSpec:
        """The input of that name; KeyError where there is none."""
        return {tensor.name: tensor for tensor in self.inputs}[name]

    def output(self, name: str) -> TensorSpec:
        """The output of that name; KeyError where there is none."""
        return {tensor.name: tensor for tensor in self.outputs}[name]


@dataclass(frozen=True, slots=True)
class StageSpec:
    """A run of decoder layers `[first, stop)` that see one number of visual tokens."""

    graph: str
    first: int
    stop: int

    @property
    def num_layers(self) -> int:
        """Layers of this stage."""
        return self.stop - self.first


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """The language model that was exported.

    A token has `num_axes` positions: one, or three (time, row, column) by M-RoPE. The vision tower
    feeds the outputs of the first `num_deepstack` layers too, all in the first stage; None: of no
    layer. Keys and values are remembered in `cache_dtype`; None: in `dtype`. Hidden states between
    layers are kept times 2^-k, k being `residual_shift`; None: as they are.
    """

    source: str
    model_type: str
    text_model_type: str
    weights_sha256: str
    dtype: str
    num_layers: int
    hidden_size: int
    intermediate_size: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    vocab_size: int
    max_position: int
    tied_head: bool
    num_axes: int = 1
    num_deepstack: int | None = field(default=None, metadata={"optional": True})
    cache_dtype: str | None = field(default=None, metadata={"optional": True})
    residual_shift: int | None = field(default=None, metadata={"optional": True})

    @property
    def residual_scale(self) -> float:
        """What hidden states between layers are kept times: 1, or a negative power of two."""
        return 2.0 ** -(self.residual_shift or 0)

    @property
    def kv_dtype(self) -> str:
        """Type of the KV cache."""
        return self.cache_dtype or self.dtype

    def problems(self, where: str) -> Iterator[str]:
        """Say what no model can be."""
        yield from _one_of(f"{where}.dtype", self.dtype, MODEL_DTYPES)
        yield from _one_of(f"{where}.cache_dtype", self.kv_dtype, CACHE_DTYPES)
        yield from _positive(where, self)
        if self.num_kv_heads > 0 and self.num_heads % self.num_kv_heads:
            yield (
                f"{where}.num_kv_heads | got {self.num_kv_heads} | "
                f"expected a divisor of num_heads {self.num_heads}"
            )


@dataclass(frozen=True, slots=True)
class VisionSpec:
    """The vision tower that was exported; sizes in pixels, `[rows, columns]` as in an array.

    Attributes:
        num_visual: Tokens of one row of the graph: an image, a crop or a frame.
        grid: Rows and columns of those tokens.
        image_size: Pixels of such a row.
        image_token_id: Stands for an image in a prompt.
        hidden_size: Width of the tower.
        intermediate_size: Width of its MLP.
        num_layers: Layers of the tower.
        num_positions: Tokens that a layer sees of such a row.
        layout: How an image becomes tokens of a prompt, see `runtime/visuals`.
        resolutions: Pixels that an image is fitted into before it is cut, where the layout cuts.
        settings: Whole numbers that the layout needs, by name.
        video_token_id: Stands for a video in a prompt; None where no token does.
    """

    num_visual: int
    grid: tuple[int, int]
    image_size: tuple[int, int]
    image_token_id: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_positions: int
    layout: str = "block"
    resolutions: tuple[tuple[int, int], ...] = ()
    settings: Mapping[str, int] = field(default_factory=dict)
    video_token_id: int | None = None

    @property
    def video_mark(self) -> str:
        """What stands for a video in a prompt where no token does; empty where nothing does.

        Source: transformers 5.24, `SmolVLMProcessor.__init__`.
        """
        return "<video>" if self.setting("has_video_mark") else ""

    @property
    def takes_videos(self) -> bool:
        """Whether a prompt may have a video."""
        return self.video_token_id is not None or bool(self.video_mark)

    def problems(self, where: str) -> Iterator[str]:
        """Say what no vision tower can be."""
        yield from _positive(where, self, but=("image_token_id", "video_token_id"))

    def setting(self, name: str) -> int:
        """A number of the layout, 0 where it is not given."""
        return self.settings.get(name, 0)


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
        yield from _one_of(f"{where}.method", self.method, self.methods)
        yield from _repeats(f"{where}.methods", list(self.methods))
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
class Link:
    """An output (`graph.tensor`) that feeds an input."""

    source: str = field(metadata={"json": "from"})
    target: str = field(metadata={"json": "to"})


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


def _one_of(where: str, got: str, expected: tuple[str, ...]) -> Iterator[str]:
    if got not in expected:
        yield f"{where} | got {got!r} | expected one of {', '.join(expected)}"


def _repeats(where: str, names: list[str]) -> Iterator[str]:
    for name in sorted({name for name in names if names.count(name) > 1}):
        yield f"{where} | {name!r} more than once | expected each name once"


def _hash_problems(where: str, sha256: str, size_bytes: int) -> Iterator[str]:
    if not SHA256.fullmatch(sha256):
        yield f"{where}.sha256 | got {sha256[:70]!r} | expected 64 hexadecimal digits"
    if size_bytes < 0:
        yield f"{where}.size_bytes | got {size_bytes} | expected 0 or more"


def _positive(where: str, spec: object, but: tuple[str, ...] = ()) -> Iterator[str]:
    for name, value in encode(spec).items():
        sizes = value if isinstance(value, list) else [value]
        least = 0 if name in but else 1
        if any(type(size) is int and size < least for size in sizes):
            yield f"{where}.{name} | got {value} | expected {least} or more"
