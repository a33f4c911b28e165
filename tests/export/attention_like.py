"""Random matrices as raters' attention can be, with full and with lower rank."""

from __future__ import annotations

import torch
from torch import Tensor

KINDS = ("noise", "heads", "low rank", "repeated raters", "smooth", "unequal raters")


def draw(seed: int) -> tuple[str, Tensor]:
    """Draw a kind, and a matrix of it: 1 to 64 raters, 1 to 3000 visual tokens."""
    generator = torch.Generator().manual_seed(seed)

    def whole(low: int, high: int) -> int:
        return int(torch.randint(low, high + 1, (1,), generator=generator))

    def share() -> float:
        return float(torch.rand(1, generator=generator))

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    kind = KINDS[whole(0, len(KINDS) - 1)]
    R, V = whole(1, 64), whole(1, 3000 if share() < 0.6 else 200)
    if kind == "noise":
        return kind, torch.softmax(normal(R, V) * 6 * share(), 1)
    if kind == "heads":  # what attention is: few dimensions, several heads averaged
        D, H = whole(2, 64), whole(1, 16)
        query, key = normal(H, R, D) * (0.2 + 1.5 * share()), normal(H, V, D)
        return kind, torch.softmax(query @ key.transpose(1, 2) / D**0.5, -1).mean(0)
    if kind == "low rank":
        rank = whole(1, min(R, V))
        return kind, torch.softmax(normal(R, rank) * 3, 1) @ torch.softmax(normal(rank, V) * 3, 1)
    if kind == "repeated raters":
        among = torch.randint(0, whole(1, R), (R,), generator=generator)
        return kind, torch.softmax(normal(R, V) * 2, 1)[among]
    if kind == "smooth":  # singular values that decay evenly through the tolerance
        place = torch.rand(R, generator=generator) * 8
        distance = place[:, None] - torch.linspace(0, 8, V)
        return kind, torch.softmax(-(distance**2) / (0.1 + 2 * share()), 1)
    falls = torch.rand(R, 1, generator=generator) ** 4
    return kind, torch.softmax(normal(R, V) * 2, 1) * falls
