"""Which prune step a method takes: the one place that ties the registry to the arithmetic."""

from collections.abc import Callable
from functools import partial

from sparsevlm_ops.keep import keep_step
from sparsevlm_ops.methods import Method
from sparsevlm_ops.pooling import pool_step
from sparsevlm_ops.prune import Pruned, prune_step

PruneStep = Callable[..., Pruned]


def step_of(method: Method) -> PruneStep:
    """Return a method's prune step, a function of the six inputs of `prune.prune_step`.

    Raises:
        ValueError: The method never prunes.
    """
    if method.step is None:
        raise ValueError(
            f"method {method.name} | has no prune step | expected a method that prunes | "
            "leave it out"
        )
    steps: dict[str, PruneStep] = {
        "recycle": prune_step,
        "keep": partial(keep_step, positions=method.positions),
        "pool": pool_step,
    }
    return steps[method.step]
