"""Scores that need no model: drawn by chance, or the number of a cell."""

from collections.abc import Callable, Iterable, Mapping

import numpy as np
from numpy.typing import NDArray

from sparsevlm_ops.cells import Grid, cell_numbers, poolings
from sparsevlm_ops.methods import Judge
from sparsevlm_ops.schedule import BoundaryCounts

Floats = NDArray[np.float32]
HostRule = Callable[[Iterable[BoundaryCounts], Grid, int], tuple[Floats, ...]]


def chance_scores(steps: Iterable[BoundaryCounts], grid: Grid, seed: int) -> tuple[Floats, ...]:
    """Draw uniform scores for each boundary that prunes, `[V]` each.

    The stream is PCG64 of (seed, layer): a boundary's draw depends on nothing but these and V.

    Args:
        steps: The boundaries.
        grid: Unused; every rule takes it.
        seed: 0 or more.
    """
    return tuple(
        np.random.Generator(np.random.PCG64([seed, step.layer])).random(step.num_in, np.float32)
        for step in steps
        if step.prunes
    )


def cell_scores(steps: Iterable[BoundaryCounts], grid: Grid, seed: int) -> tuple[Floats, ...]:
    """Number the cell of each token for each boundary that prunes, `[V]` each, from 0.

    Args:
        steps: The boundaries, counted for a method that pools.
        grid: The grid of the visual block before the first of them.
        seed: Unused; every rule takes it.
    """
    return tuple(
        np.array(cell_numbers(step.before, step.after), np.float32)
        for step in poolings(((step.layer, step.num_out) for step in steps), grid)
        if step.after != step.before
    )


HOST_RULES: Mapping[Judge, HostRule] = {"chance": chance_scores, "cells": cell_scores}
