"""The graphs of a bundle as its manifest describes them: files, tensors, stages and links."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from sparsevlm_trt.runtime.spec_checks import hash_problems, one_of, repeats

__all__ = [
    "TABLE_WORDS",
    "FileSpec",
    "GraphSpec",
    "Link",
    "StageSpec",
    "TensorSpec",
    "decides",
]

TENSOR_DTYPES = ("float32", "float16", "bfloat16", "int64", "int32", "int8", "uint8", "bool")
# An embedding table of bytes is the initializer `NAME.words`: four numbers of a row in an int32.
TABLE_WORDS = "words"
_DECIDING = ("raters", "rater_rows", "rank", "gravity")


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
        yield from one_of(f"{where}.dtype", self.dtype, TENSOR_DTYPES)
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
        yield from hash_problems(where, self.sha256, self.size_bytes)


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
        yield from hash_problems(where, self.sha256, self.size_bytes)
        for side, tensors in (("inputs", self.inputs), ("outputs", self.outputs)):
            yield from repeats(f"{where}.{side}", [tensor.name for tensor in tensors])
        yield from repeats(f"{where}.weights", list(self.weights))

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
class Link:
    """An output (`graph.tensor`) that feeds an input."""

    source: str = field(metadata={"json": "from"})
    target: str = field(metadata={"json": "to"})


def decides(graph: str) -> bool:
    """Whether a graph of that name decides what is kept: such graphs compute in float32."""
    return graph in _DECIDING or graph.startswith("prune_")
