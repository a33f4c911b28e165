"""Which prune step a method takes: the one place that ties the registry to the arithmetic."""

from collections.abc import Callable
from functools import partial

from sparsevlm_ops.keep import keep_step
from sparsevlm_ops.methods import Method, Step
from sparsevlm_ops.pooling import pool_step
from sparsevlm_ops.prune import Pruned, prune_step

PruneStep = Callable[..., Pruned]

# Functions of the seven inputs of `prune.prune_step`.
PRUNE_STEPS: dict[Step, PruneStep] = {
    "recycle": prune_step,
    "keep": keep_step,
    "pool": pool_step,
}


def scaled_step(step: Step, residual_scale: float) -> PruneStep:
    """Return the prune step for hidden states that are kept times `residual_scale`.

    Means do not care; clusters do.
    """
    if step != "recycle" or residual_scale == 1.0:
        return PRUNE_STEPS[step]
    return partial(prune_step, residual_scale=residual_scale)


def step_of(method: Method) -> PruneStep:
    """Return a method's prune step.

    Raises:
        ValueError: The method never prunes.
    """
    if method.step is None:
        raise ValueError(
            f"method {method.name} | has no prune step | expected a method that prunes | "
            "leave it out"
        )
    return PRUNE_STEPS[method.step]
