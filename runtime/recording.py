"""A runner that remembers what the chain gave its graphs, and what came back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import DTypeLike

from sparsevlm_trt.runtime.bundle import Bundle
from sparsevlm_trt.runtime.closing import Closing
from sparsevlm_trt.runtime.runner import Array, Runner, Tensor

__all__ = ["GraphCall", "RecordingRunner"]

# A run is recorded up to the head of its first decode step: later steps only repeat that one.
PHASES = ("prefill", "decode")


@dataclass(frozen=True, slots=True, eq=False)
class GraphCall:
    """One run of one graph.

    Attributes:
        graph: Its name in the bundle.
        phase: "prefill" or "decode".
        inputs: Copies of its inputs, by name.
        outputs: Copies of its outputs, by name.
    """

    graph: str
    phase: str
    inputs: dict[str, Array]
    outputs: dict[str, Array]


class RecordingRunner(Closing):
    """Passes every call on; between `start` and `stop` keeps those of the first two phases."""

    def __init__(self, runner: Runner) -> None:
        """Wrap a runner; nothing is recorded yet."""
        self._runner = runner
        self.name, self.device = runner.name, runner.device
        self._calls: list[GraphCall] = []
        self._phases: list[str] = []

    def start(self) -> None:
        """Record from here."""
        self._calls, self._phases = [], list(PHASES)

    def stop(self) -> list[GraphCall]:
        """Record no more, and return the calls in order."""
        calls, self._calls, self._phases = self._calls, [], []
        return calls

    def load(self, bundle: Bundle, graphs: Sequence[str]) -> None:
        """See `Runner.load`."""
        self._runner.load(bundle, graphs)

    def empty(self, shape: Sequence[int], dtype: DTypeLike, /) -> Tensor:
        """See `Runner.empty`."""
        return self._runner.empty(shape, dtype)

    def run(
        self, graph: str, inputs: Mapping[str, Tensor], into: Mapping[str, Tensor] | None = None
    ) -> dict[str, Tensor]:
        """See `Runner.run`."""
        if not self._phases:
            return self._runner.run(graph, inputs, into)
        given = {name: np.array(value) for name, value in inputs.items()}
        outputs = self._runner.run(graph, inputs, into)
        got = {name: np.array(value) for name, value in outputs.items()}
        self._calls.append(GraphCall(graph, self._phases[0], given, got))
        if graph == "head":
            self._phases.pop(0)
        return outputs

    def close(self) -> None:
        """See `Runner.close`."""
        self._runner.close()
