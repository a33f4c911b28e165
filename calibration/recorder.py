"""Run the pruned chain on the data and watch what goes into every linear."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from sparsevlm_trt.calibration.cache_codes import NEW_ENTRIES
from sparsevlm_trt.calibration.models import load_model, model_bytes
from sparsevlm_trt.calibration.sites import find_sites
from sparsevlm_trt.calibration.statistics import Statistics
from sparsevlm_trt.runtime.bundle import Bundle
from sparsevlm_trt.runtime.ort import OnnxRuntimeRunner
from sparsevlm_trt.runtime.runner import Tensor

__all__ = ["Recorder"]


class Recorder(OnnxRuntimeRunner):
    """A runner whose graphs also give out the activations of their sites.

    Attributes:
        statistics: What was seen at each site, by the site's name.
        caches: Largest magnitude of each channel of the new keys and values, by output, `[G*D]`.
    """

    def __init__(self, *, moments: bool, threads: int | None = None) -> None:
        """Watch nothing yet.

        Args:
            moments: Whether to sum up second moments, as compensated rounding needs them.
            threads: As `OnnxRuntimeRunner`.
        """
        super().__init__(threads=threads)
        self.statistics: dict[str, Statistics] = {}
        self.caches: dict[str, NDArray[np.float32]] = {}
        self._moments = moments
        self._taps: dict[str, dict[str, list[str]]] = {}
        self._given: dict[str, list[str]] = {}

    def load(self, bundle: Bundle, graphs: Sequence[str]) -> None:
        """Open graphs of a bundle, with an output more for each activation."""
        for graph in graphs:
            model = load_model(bundle, graph)
            self._given[graph] = [str(value.name) for value in model.graph.outputs]
            self._taps[graph] = _tap(graph, model)
            self.put(graph, model_bytes(model), bundle.graph_path(graph).parent)

    def run(
        self, graph: str, inputs: Mapping[str, Tensor], into: Mapping[str, Tensor] | None = None
    ) -> dict[str, Tensor]:
        """Run one graph and look at its activations; they are not among the outputs."""
        outputs = super().run(graph, inputs, into)
        for tensor, sites in self._taps[graph].items():
            activation = inputs[tensor] if tensor in inputs else outputs[tensor]
            for site in sites:
                seen = self.statistics.get(site)
                if seen is None:
                    seen = Statistics(activation.shape[-1], moments=self._moments)
                    self.statistics[site] = seen
                seen.add(np.asarray(activation))
        for name in self._given[graph]:
            if name.startswith(NEW_ENTRIES):
                entries = np.abs(np.asarray(outputs[name], np.float32)).max(axis=(0, 1))
                self.caches[name] = np.maximum(self.caches.get(name, 0.0), entries)
        return {name: outputs[name] for name in self._given[graph]}


def _tap(graph: str, model: ir.Model) -> dict[str, list[str]]:
    """Make the activation of each site an output; the sites of each tensor."""
    taps: dict[str, list[str]] = {}
    for site in find_sites(graph, model):
        assert site.value.name is not None
        taps.setdefault(site.value.name, []).append(site.name)
        if site.value not in model.graph.outputs and not site.value.is_graph_input():
            model.graph.outputs.append(site.value)
    return taps
