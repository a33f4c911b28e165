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

__all__ = ["LEAST_ROW", "Fit", "fit_site", "row_noise"]

Floats = NDArray[np.float32]
# Shares of an activation's unevenness that go to the weights; 0.5 is the paper's usual one.
SHARES = (0.0, 0.25, 0.4, 0.5, 0.6, 0.75, 0.9)
CLIPS = (1.0, 0.85, 0.7, 0.55, 0.4, 0.3)  # of the largest magnitude seen
# Four operators more are worth a third of the noise: where few tokens are far larger than others.
WORTH_ROWS = 0.33
LEAST_ROW = 6.2e-5  # what a row is divided by at least: float16's normal numbers begin here
FLOAT32 = np.dtype(np.float32)


@dataclass(frozen=True, slots=True, eq=False)
class Fit:
    """What was found for a site.

    Attributes:
        balance: The activation is divided, its weights multiplied by it, `[K]`; None: by nothing.
        scale: Scale of the activation after that; None where activations stay.
        by_row: Whether each row is first divided by its own largest magnitude.
        noise: Squared error of a row's product as a share of the product's own energy, mean over
            the rows that were kept and over the linears.
    """

    balance: Floats | None
    scale: float | None
    noise: float
    by_row: bool = False


def fit_site(
    seen: Statistics, weights: Sequence[Floats], scheme: Scheme, *, can_balance: bool
) -> Fit:
    """Try shares, clips and rows by themselves, on the data; the least error of products wins.

    Args:
        seen: Statistics of the activation.
        weights: The linears' weights, `[K, M]` each.
        scheme: How they will be quantised.
        can_balance: Whether the activation can be divided.

    Source: SmoothQuant (arXiv 2211.10438) for the balance, AWQ (arXiv 2306.00978) for choosing
    its share by the error of the product; where only weights are quantised this is AWQ's search.
    """
    rows = seen.rows
    products = [rows @ weight for weight in weights]
    shares = SHARES if can_balance else (0.0,)
    balances = [_balance(seen.largest, weights, share) for share in shares]
    rounds = scheme.activations is not None and scheme.activations.rounds

    def search(*, by_row: bool) -> Fit:
        fits = [
            _fit(seen, rows, weights, products, scheme, balance, 1.0, by_row)
            for balance in balances
        ]
        best = min(fits, key=lambda fit: fit.noise)
        if rounds:
            for clip in CLIPS[1:]:
                fit = _fit(seen, rows, weights, products, scheme, best.balance, clip, by_row)
                best = min(best, fit, key=lambda fit: fit.noise)
        return best

    plain = search(by_row=False)
    if not rounds:
        return plain
    by_row = search(by_row=True)
    return by_row if by_row.noise < WORTH_ROWS * plain.noise else plain


def _fit(
    seen: Statistics,
    rows: Floats,
    weights: Sequence[Floats],
    products: Sequence[Floats],
    scheme: Scheme,
    balance: Floats | None,
    clip: float,
    by_row: bool,
) -> Fit:
    factor = np.ones(rows.shape[1], np.float32) if balance is None else balance
    inputs: Floats = rows / factor
    scale = None
    if scheme.activations is not None:
        largest = 1.0 if by_row else float((seen.largest / factor).max())
        scale = max(clip * largest / scheme.activations.largest, 1e-8)
        step = np.full((len(rows), 1), scale, np.float32)
        if by_row:
            step *= np.maximum(np.abs(inputs).max(axis=1, keepdims=True), LEAST_ROW)
        inputs = rounded(inputs / step, scheme.activations) * step
    noises = []
    for weight, product in zip(weights, products, strict=True):
        block = block_of(scheme, weight.shape[0])
        codes = nearest(weight * factor[:, None], scheme.weights, block, FLOAT32)
        noises.append(row_noise(inputs @ codes.values() - product, product))
    return Fit(balance, scale, float(np.mean(noises)), by_row)


def row_noise(error: Floats, product: Floats) -> float:
    """Error over product, each row by itself: a few tokens of huge activations outweigh no other.

    A row that is far below the others counts as a tenth of the median one.
    """
    energy = np.square(product).sum(axis=1)
    floor = max(0.1 * float(np.median(energy)), 1e-12)
    return float((np.square(error).sum(axis=1) / np.maximum(energy, floor)).mean())


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
