"""Run quantised graphs beside their originals on the same inputs: how far apart are they?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import DTypeLike

from sparsevlm_trt.runtime.bundle import Bundle
from sparsevlm_trt.runtime.closing import Closing
from sparsevlm_trt.runtime.ort import OnnxRuntimeRunner
from sparsevlm_trt.runtime.runner import Tensor

__all__ = ["Distance", "Twin"]


@dataclass(slots=True)
class Distance:
    """Sums over all outputs of a graph, from which its figures follow.

    Attributes:
        energy: Squares of the original's outputs.
        other: Squares of the quantised graph's outputs.
        product: Products of the two.
        error: Squares of their differences.
    """

    energy: float = 0.0
    other: float = 0.0
    product: float = 0.0
    error: float = 0.0

    def add(self, expected: Tensor, found: Tensor) -> None:
        """Compare one output."""
        first = np.asarray(expected, np.float64).ravel()
        second = np.asarray(found, np.float64).ravel()
        self.energy += float(first @ first)
        self.other += float(second @ second)
        self.product += float(first @ second)
        self.error += float(np.square(first - second).sum())

    @property
    def sqnr_db(self) -> float | None:
        """Signal to quantisation noise, in decibels; None where there is no noise."""
        if self.error == 0.0 or self.energy == 0.0:
            return None
        return float(10 * np.log10(self.energy / self.error))

    @property
    def cosine(self) -> float:
        """Cosine of the angle between all outputs taken as one vector."""
        norm = (self.energy * self.other) ** 0.5
        return self.product / norm if norm else 1.0


class Twin(Closing):
    """A runner that computes with the original graphs, and the quantised ones on their inputs.

    Attributes:
        distances: Of each graph that ran, by name.
    """

    name = "onnxruntime"
    device = "cpu"

    def __init__(
        self, original: OnnxRuntimeRunner, quantised: OnnxRuntimeRunner, graphs: Sequence[str]
    ) -> None:
        """Take two runners that have their graphs loaded.

        Args:
            original: Computes what the chain goes on with.
            quantised: Computes beside it.
            graphs: Those that differ.
        """
        self._original, self._quantised = original, quantised
        self.distances = {graph: Distance() for graph in graphs}

    def load(self, bundle: Bundle, graphs: Sequence[str]) -> None:
        """Do nothing: both have theirs."""

    def empty(self, shape: Sequence[int], dtype: DTypeLike, /) -> Tensor:
        """Reserve an array; see `Runner.empty`."""
        return self._original.empty(shape, dtype)

    def run(
        self, graph: str, inputs: Mapping[str, Tensor], into: Mapping[str, Tensor] | None = None
    ) -> dict[str, Tensor]:
        """Run both; the outputs are the original's."""
        outputs = self._original.run(graph, inputs, into)
        distance = self.distances.get(graph)
        if distance is not None:
            beside = self._quantised.run(graph, inputs)
            for name, expected in outputs.items():
                if np.dtype(expected.dtype).kind == "f":
                    distance.add(expected, beside[name])
        return outputs

    def close(self) -> None:
        """Do nothing: who made the two closes them."""
