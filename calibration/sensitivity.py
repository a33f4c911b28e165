"""How far rounding one activation and its weights moves what a graph hands on, and to how many.

What moves before the first boundary moves every decision of the chain; behind the last one, the
answer alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace

import numpy as np

from sparsevlm_trt.calibration.balance import Fit, row_noise
from sparsevlm_trt.calibration.cache_codes import NEW_ENTRIES
from sparsevlm_trt.calibration.models import load_model, model_bytes
from sparsevlm_trt.calibration.rewrite import quantize_graph
from sparsevlm_trt.calibration.samples import Samples
from sparsevlm_trt.calibration.schemes import Scheme
from sparsevlm_trt.calibration.sites import find_sites
from sparsevlm_trt.runtime.bundle import Bundle
from sparsevlm_trt.runtime.ort import OnnxRuntimeRunner
from sparsevlm_trt.runtime.recording import GraphCall, RecordingRunner
from sparsevlm_trt.runtime.runner import Array, Tensor
from sparsevlm_trt.runtime.session import Session

__all__ = ["Sensitivity", "measure_sensitivity", "most_sensitive"]

_NUM_QUESTIONS = 3  # that are read for every site


@dataclass(frozen=True, slots=True)
class Sensitivity:
    """What rounding a site costs, and what leaving it would.

    Attributes:
        name: The site.
        moved: Squared error of a row as a share of the row, mean over rows, calls, and the
            outputs that another graph reads.
        num_weights: Of its linears.
        num_decisions: That follow its graph: a prune step behind each stage but the last, and
            the answer.
    """

    name: str
    moved: float
    num_weights: int
    num_decisions: int

    @property
    def worth(self) -> float:
        """What leaving it saves the decisions, for each weight that stays wide."""
        return self.moved * self.num_decisions / self.num_weights


def measure_sensitivity(
    bundle: Bundle,
    fits: Mapping[str, Fit],
    scheme: Scheme,
    samples: Samples,
    *,
    progress: Callable[[str, int, int], None] | None = None,
) -> list[Sensitivity]:
    """Round one site at a time, to the nearest, and see how far its graph's outputs move.

    Args:
        bundle: The bundle that is to be quantised.
        fits: What was found for its sites.
        scheme: How they will be quantised.
        samples: The first few of them are read, each with the bundle's own plan.
        progress: Called before each site.

    Raises:
        InputError: A sample cannot be asked.
        RunnerError: A graph failed.
    """
    found: list[Sensitivity] = []
    heard: dict[str, list[GraphCall]] = {}
    with closing(RecordingRunner(OnnxRuntimeRunner())) as recorder:
        recorder.load(bundle, list(bundle.manifest.graphs))
        session = Session(bundle, recorder)
        for question in samples.questions[:_NUM_QUESTIONS]:
            recorder.start()
            session.generate(
                images=[question.image], messages=question.messages(), max_new_tokens=1
            )
            for call in recorder.stop():
                kept = replace(call, outputs=_handed_on(call.outputs))
                heard.setdefault(call.graph, []).append(kept)
    for graph, calls in heard.items():
        sites = [s for s in find_sites(graph, load_model(bundle, graph)) if s.name in fits]
        follow = _num_decisions(bundle, graph)
        with closing(OnnxRuntimeRunner()) as runner:  # one graph at a time is in memory
            for site in sites:
                if progress is not None:
                    progress(f"round {site.name}", len(found), len(fits))
                model, fit = load_model(bundle, graph), {site.name: fits[site.name]}
                quantize_graph(graph, model, fit, scheme, lambda _, tensor: tensor, {})
                runner.put(graph, model_bytes(model), bundle.graph_path(graph).parent)
                moved = float(np.mean([_moved(runner, graph, call) for call in calls]))
                size = sum(linear.num_weights for linear in site.linears)
                found.append(Sensitivity(site.name, moved, size, follow))
    return found


def most_sensitive(found: Sequence[Sensitivity], count: int) -> tuple[str, ...]:
    """Name the sites that are worth most."""
    ordered = sorted(found, key=lambda site: (-site.worth, site.name))
    return tuple(site.name for site in ordered[:count])


def _num_decisions(bundle: Bundle, graph: str) -> int:
    """Decisions that follow a graph: all follow what runs before the stages."""
    stages = [stage.graph for stage in bundle.manifest.stages]
    if graph == "head":
        return 1
    return len(stages) - (stages.index(graph) if graph in stages else 0)


def _moved(runner: OnnxRuntimeRunner, graph: str, call: GraphCall) -> float:
    """Run a graph on the inputs of a call: how far its outputs lie from the call's."""
    made = runner.run(graph, call.inputs)
    return float(np.mean([_distance(kept, made[name]) for name, kept in call.outputs.items()]))


def _handed_on(outputs: Mapping[str, Array]) -> dict[str, Array]:
    """Outputs that are not the graph's own memory."""
    return {
        name: value
        for name, value in outputs.items()
        if value.dtype.kind == "f" and not name.startswith(NEW_ENTRIES)
    }


def _distance(expected: Array, found: Tensor) -> float:
    rows = expected.reshape(-1, expected.shape[-1]).astype(np.float32)
    return row_noise(np.asarray(found, np.float32).reshape(rows.shape) - rows, rows)
