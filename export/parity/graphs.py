"""The first question: does each graph compute what PyTorch computes, on the same inputs?"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from polygraphy.comparator import IterationResult, SimpleCompareFunc
from polygraphy.logger import G_LOGGER

from sparsevlm_trt.export.parity.selections import compare_raters, compare_selection
from sparsevlm_trt.export.parity.tolerances import tolerance
from sparsevlm_trt.export.parity.torch_graphs import TorchGraphs
from sparsevlm_trt.runtime.recording import GraphCall
from sparsevlm_trt.runtime.runner import Array

__all__ = ["GraphsVerdict", "TensorCheck", "compare_graphs"]

# A prune step's scores are the same inputs' means: only their last bits may differ.
_SAME_INPUTS = "float32"

# A singular value at the tolerance itself may fall on either side of it.
_RANK_TIE = 1

# Rows below this share of the largest one are noise around zero, and are judged by that share.
_SMALLEST_ROW = 1e-3


@dataclass(frozen=True, slots=True)
class TensorCheck:
    """One output of one graph call.

    Attributes:
        graph: The graph.
        phase: "prefill" or "decode".
        tensor: The output.
        shape: Its shape.
        max_abs: Largest absolute difference.
        max_rel: Largest difference as a share of its row's largest magnitude in the reference,
            a row being what shares all but the last index: a token, as a rule.
        cosine: Cosine similarity of the flattened tensors; 1 for an empty tensor.
        allowed: Largest `max_rel` that passes.
        passed: Whether it does.
        note: What numbers do not say; mostly empty.
    """

    graph: str
    phase: str
    tensor: str
    shape: tuple[int, ...]
    max_abs: float
    max_rel: float
    cosine: float
    allowed: float
    passed: bool
    note: str = ""

    @property
    def severity(self) -> float:
        """How much of what is allowed is used up; above 1 fails."""
        if not np.isfinite(self.max_rel):
            return np.inf
        if self.allowed:
            return self.max_rel / self.allowed
        return 0.0 if self.passed else np.inf


@dataclass(frozen=True, slots=True)
class GraphsVerdict:
    """All outputs of all calls."""

    checks: tuple[TensorCheck, ...]

    @property
    def passed(self) -> bool:
        """Whether every one is within its tolerance."""
        return all(check.passed for check in self.checks)

    @property
    def worst(self) -> TensorCheck:
        """The one that uses up most of its tolerance; a failed one before any other."""
        return max(self.checks, key=lambda check: (not check.passed, check.severity))

    @property
    def worst_by_graph(self) -> dict[str, TensorCheck]:
        """The worst output of each graph, in the order of the chain."""
        worst: dict[str, TensorCheck] = {}
        for graph in dict.fromkeys(check.graph for check in self.checks):
            own = tuple(check for check in self.checks if check.graph == graph)
            worst[graph] = GraphsVerdict(own).worst
        return worst


def compare_graphs(
    calls: Iterable[GraphCall], torch_graphs: TorchGraphs, dtype: str
) -> GraphsVerdict:
    """Run every recorded call again in PyTorch and compare all outputs.

    Args:
        calls: What the chain gave its graphs, and what came back.
        torch_graphs: The reference.
        dtype: The bundle's dtype, which sets the tolerance.
    """
    checks: list[TensorCheck] = []
    for call in calls:
        expected = torch_graphs.run(call.graph, call.inputs, call.outputs)
        if call.graph == "raters":
            got_mask, mask = call.outputs["rater_mask"], expected.pop("rater_mask")
            check = compare_raters(expected["rater_scores"][0], mask[0], got_mask[0], dtype)
            checks.append(_decision(call, "rater_mask", check.passed, check.describe()))
        elif call.graph == "rank":
            ranks, theirs = call.outputs["rank"], expected.pop("rank")
            near = bool((np.abs(ranks - theirs) <= _RANK_TIE).all())
            note = "" if (ranks == theirs).all() else f"ranks {ranks} instead of {theirs} (tie)"
            checks.append(_decision(call, "rank", near, note))
        elif call.graph.startswith("prune_"):
            scores = expected["visual_scores"][0]
            kept, merged = (call.outputs[name][0] for name in ("kept_index", "merge_candidates"))
            choice = compare_selection(scores, kept, merged, _SAME_INPUTS)
            checks.append(_decision(call, "kept_index", choice.passed, choice.describe()))
        checks += _compare(call, expected, dtype)
    return GraphsVerdict(tuple(checks))


def _compare(call: GraphCall, expected: Mapping[str, Array], dtype: str) -> list[TensorCheck]:
    """Let Polygraphy judge the outputs that hold anything, as shares of their rows' scales."""
    got = {name: call.outputs[name] for name in expected}
    rule = tolerance("graph", dtype)
    allowed = {
        name: 0.0 if value.dtype.kind in "bi" else rule.allowed(1.0)
        for name, value in expected.items()
    }
    filled = [name for name, value in expected.items() if value.size and got[name].size]
    scales = {name: _row_scales(expected[name]) for name in filled}
    ours, theirs = (
        IterationResult(
            {name: _wide(side[name]) / _fit(scales[name], side[name]) for name in filled},
            runner_name=who,
        )
        for who, side in (("chain", got), ("torch", expected))
    )
    compare = SimpleCompareFunc(atol=allowed, rtol=0.0, check_error_stat="max")
    with G_LOGGER.verbosity(G_LOGGER.CRITICAL):
        results = compare(ours, theirs) if filled else {}
    checks = []
    for name, value in expected.items():
        same_shape, result = got[name].shape == value.shape, results.get(name)
        difference = np.abs(_wide(got[name]) - _wide(value)) if same_shape else np.full(1, np.inf)
        nothing = 0.0 if same_shape else np.inf
        checks.append(
            TensorCheck(
                graph=call.graph,
                phase=call.phase,
                tensor=name,
                shape=got[name].shape,
                max_abs=float(difference.max(initial=0.0)),
                max_rel=float(getattr(result, "max_absdiff", nothing)),
                cosine=_cosine(got[name], value) if same_shape else 0.0,
                allowed=allowed[name],
                passed=same_shape and (result is None or bool(result)),
                note="" if same_shape else f"got shape {list(got[name].shape)}",
            )
        )
    return checks


def _decision(call: GraphCall, tensor: str, passed: bool, note: str) -> TensorCheck:
    """A choice has no distance: it is the reference's, or a tie, or wrong."""
    shape = call.outputs[tensor].shape
    return TensorCheck(call.graph, call.phase, tensor, shape, 0.0, 0.0, 1.0, 0.0, passed, note)


def _wide(value: Array) -> NDArray[np.float64]:
    return np.ascontiguousarray(value, np.float64)


def _row_scales(value: Array) -> NDArray[np.float64]:
    """Largest magnitude of each row, `[..., 1]`; 1 for indices, whose differences count whole.

    A few tokens of a real model are a hundred times larger than all others: by the tensor's
    scale, an error in the others would pass.
    """
    if value.dtype.kind in "bi":
        return np.ones((1,) * value.ndim)
    rows = np.abs(_wide(value)).max(axis=-1, keepdims=True)
    floor = rows.max() * _SMALLEST_ROW
    return np.maximum(rows, floor) if floor else np.ones_like(rows)


def _fit(scales: NDArray[np.float64], value: Array) -> NDArray[np.float64] | float:
    """The scales for a tensor of the same rows; of another shape, none: it fails anyway."""
    return scales if np.broadcast_shapes(scales.shape, value.shape) == value.shape else 1.0


def _cosine(one: Array, other: Array) -> float:
    a, b = _wide(one).ravel(), _wide(other).ravel()
    lengths = float(np.linalg.norm(a) * np.linalg.norm(b))
    if lengths == 0.0:
        return 1.0 if np.array_equal(a, b) else 0.0
    return float(np.clip(a @ b / lengths, -1.0, 1.0))
