"""Find the scale of an activation, and how much of its unevenness its weights should take over.

Dims: n rows, K channels, M outputs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sparsevlm_trt.calibration.rounding import nearest, rounded
from sparsevlm_trt.calibration.schemes import Scheme
from sparsevlm_trt.calibration.statistics import Statistics

__all__ = ["Fit", "fit_site"]

Floats = NDArray[np.float32]
# Shares of an activation's unevenness that go to the weights; 0.5 is the paper's usual one.
SHARES = (0.0, 0.25, 0.4, 0.5, 0.6, 0.75, 0.9)
CLIPS = (1.0, 0.85, 0.7, 0.55, 0.4, 0.3)  # of the largest magnitude seen
FLOAT32 = np.dtype(np.float32)


@dataclass(frozen=True, slots=True, eq=False)
class Fit:
    """What was found for a site.

    Attributes:
        balance: The activation is divided, its weights multiplied by it, `[K]`; None: by nothing.
        scale: Scale of the activation after that; None where activations stay.
        noise: Mean over the linears of the squared error of the product, as a share of the
            product's own energy, on the rows that were kept.
    """

    balance: Floats | None
    scale: float | None
    noise: float


def fit_site(
    seen: Statistics, weights: Sequence[Floats], scheme: Scheme, *, can_balance: bool
) -> Fit:
    """Try shares, then clips, on rows of the data; the least error of the products wins.

    Args:
        seen: Statistics of the activation.
        weights: The linears' weights, `[K, M]` each.
        scheme: How they will be quantised.
        can_balance: Whether what makes the activation can be divided.

    Source: SmoothQuant (arXiv 2211.10438) for the balance, AWQ (arXiv 2306.00978) for choosing
    its share by the error of the product; where only weights are quantised this is AWQ's search.
    """
    rows = seen.rows
    products = [rows @ weight for weight in weights]
    best: Fit | None = None
    for share in SHARES if can_balance else (0.0,):
        balance = _balance(seen.largest, weights, share)
        fit = _fit(seen, rows, weights, products, scheme, balance, 1.0)
        if best is None or fit.noise < best.noise:
            best = fit
    assert best is not None
    if scheme.activations is not None and scheme.activations.rounds:
        for clip in CLIPS[1:]:
            fit = _fit(seen, rows, weights, products, scheme, best.balance, clip)
            if fit.noise < best.noise:
                best = fit
    return best


def _fit(
    seen: Statistics,
    rows: Floats,
    weights: Sequence[Floats],
    products: Sequence[Floats],
    scheme: Scheme,
    balance: Floats | None,
    clip: float,
) -> Fit:
    factor = np.ones(rows.shape[1], np.float32) if balance is None else balance
    inputs, scale = rows / factor, None
    if scheme.activations is not None:
        largest = float((seen.largest / factor).max())
        scale = max(clip * largest / scheme.activations.largest, 1e-8)
        inputs = rounded(inputs / np.float32(scale), scheme.activations) * np.float32(scale)
    noises = []
    for weight, product in zip(weights, products, strict=True):
        block = block_of(scheme, weight.shape[0])
        codes = nearest(weight * factor[:, None], scheme.weights, block, FLOAT32)
        error = inputs @ codes.values() - product
        noises.append(float(np.square(error).sum() / max(np.square(product).sum(), 1e-12)))
    return Fit(balance, scale, float(np.mean(noises)))


def block_of(scheme: Scheme, num_inputs: int) -> int | None:
    """The scheme's block, or the largest half of it that divides the inputs."""
    block = scheme.block_size
    while block is not None and num_inputs % block:
        block = block // 2 if block > 16 else None
    return block


def _balance(largest: Floats, weights: Sequence[Floats], share: float) -> Floats | None:
    if share == 0.0:
        return None
    heaviest = np.max([np.abs(weight).max(axis=1) for weight in weights], axis=0)
    even = np.maximum(largest, 1e-5) ** share / np.maximum(heaviest, 1e-5) ** (1 - share)
    # Its own scale is free: around 1, so that float16 norms stay in range.
    balance: Floats = (even / np.exp(np.log(even).mean())).clip(1e-3, 1e3).astype(np.float32)
    return balance
