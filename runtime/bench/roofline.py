"""How far each graph is from what the machine could do.

A graph must do its operations and read its weights (and, in a decode step, the cache) once. The
time of whichever takes longer at the machine's own ceilings is its bound; bound over measured time
is how much of the machine it uses. Source: Williams, Waterman and Patterson, "Roofline" (2009).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from sparsevlm_trt.runtime.bench.contender import GRAPH_PREFIX
from sparsevlm_trt.runtime.flops import ChainCost

__all__ = ["DECODE", "Bound", "Ceilings", "chain_bounds"]

DECODE = "decode step"


@dataclass(frozen=True, slots=True)
class Ceilings:
    """What the engine reaches here with matrix products alone.

    Attributes:
        dtype: The type of the products.
        flops_per_s: Operations, with many rows.
        bytes_per_s: Bytes of weights read, with one row.
    """

    dtype: str
    flops_per_s: float
    bytes_per_s: float

    def bound_ms(self, flops: float, num_bytes: float) -> float:
        """Milliseconds that so much work takes at least."""
        return 1e3 * max(flops / self.flops_per_s, num_bytes / self.bytes_per_s)


@dataclass(frozen=True, slots=True)
class Bound:
    """One graph's work against its time.

    Attributes:
        graph: Its name, or `DECODE` for a whole step.
        flops: Operations.
        num_bytes: Bytes of weights and cache that must be read.
        bound_ms: The least time.
        measured_ms: The time that it took.
    """

    graph: str
    flops: float
    num_bytes: float
    bound_ms: float
    measured_ms: float

    @property
    def share(self) -> float:
        """Bound over measured time: 1 is the limit."""
        return self.bound_ms / self.measured_ms if self.measured_ms else 0.0


def chain_bounds(
    row: Mapping[str, Any],
    cost: ChainCost,
    weight_bytes: Mapping[str, int],
    ceilings: Ceilings,
    narrowing: float = 1.0,
) -> Iterator[Bound]:
    """Hold the graphs of one measured case to the ceilings.

    Args:
        row: The case's medians, as `run_rounds` gives them.
        cost: What its prompt costs.
        weight_bytes: Bytes of each graph's weights in the bundle.
        ceilings: Of the engine.
        narrowing: Bytes of the engine's own type over those of the bundle's.

    Yields:
        Vision, each stage and the head in prefill, then a decode step.
    """
    batch = int(row.get("batch", 1))
    work = {"vision": (cost.vision_flops, weight_bytes.get("vision", 0) * narrowing)}
    for stage in cost.stages:
        read = (weight_bytes[stage.graph] + batch * stage.kv_bytes) * narrowing
        work[stage.graph] = (batch * stage.prefill_flops, read)
    head = weight_bytes.get("head", 0) * narrowing
    work["head"] = (batch * cost.head_flops, head)
    for graph, (flops, num_bytes) in work.items():
        measured = row.get(GRAPH_PREFIX + graph)
        if measured:
            least = ceilings.bound_ms(flops, num_bytes)
            yield Bound(graph, flops, num_bytes, least, float(measured))
    flops = batch * cost.decode_flops
    num_bytes = head + narrowing * (
        sum(weight_bytes[stage.graph] for stage in cost.stages) + batch * cost.kv_bytes
    )
    least = ceilings.bound_ms(flops, num_bytes)
    yield Bound(DECODE, flops, num_bytes, least, float(row["decode_ms"]))
