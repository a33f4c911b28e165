"""How a rank becomes a number of tokens: SparseVLM's adaptive version, without the tensors."""

from dataclasses import dataclass

from sparsevlm_ops.schedule import BoundaryCounts, counts_of, num_kept

# Source: the authors' v1.0, its README: budget -> (scale, bias), for LLaVA-1.5.
AUTHORS_RANK_RULES: dict[int, tuple[float, float]] = {
    192: (13.5, 0.0),
    128: (9.0, 6.0),
    64: (0.8, 0.0),
}


@dataclass(frozen=True, slots=True)
class RankRule:
    """Tokens kept after a pruning layer, by the rank of what the raters see there.

        r == n:  all n tokens stay as they are
        else:    K = min(int(r * scale + bias), n - 1), and some of the others are merged

    Attributes:
        layers: Pruning layers, ascending.
        scale: Tokens for each independent thing that the raters look at.
        bias: Tokens beyond these.

    Raises:
        ValueError: No layer, layers not ascending or negative, or numbers that are not finite.

    Source: SparseVLM 3.3, equation 9; the authors' code, v1.0.
    """

    layers: tuple[int, ...]
    scale: float = AUTHORS_RANK_RULES[192][0]
    bias: float = AUTHORS_RANK_RULES[192][1]

    def __post_init__(self) -> None:
        """Refuse what cannot be a rule."""
        layers = self.layers
        if not layers or min(layers) < 0 or list(layers) != sorted(set(layers)):
            raise ValueError(
                f"layers | got {list(layers)} | expected ascending pruning layers | name them"
            )
        if not (0 <= self.scale < float("inf") and abs(self.bias) < float("inf")):
            raise ValueError(
                f"scale, bias | got {self.scale}, {self.bias} | expected finite numbers, the "
                "scale 0 or more | the authors' are 13.5 and 0, 9 and 6, 0.8 and 0"
            )

    def counts(self, layer: int, num_visual: int, rank: int) -> BoundaryCounts:
        """Count what a boundary leaves.

        Args:
            layer: The pruning layer.
            num_visual: Visual tokens before it, 1 or more.
            rank: Of the raters' attention to them.
        """
        if rank >= num_visual:
            return BoundaryCounts(layer, num_visual, num_visual, 0, 0, num_visual)
        kept = max(0, num_kept(int(rank * self.scale + self.bias), num_visual))
        return counts_of(layer, num_visual, kept, recycles=True)

    def outcome(self, num_visual: int, rank: int) -> dict[int, int]:
        """Tell what each boundary would leave, `{layer: tokens}`, if all met the same rank."""
        left = {}
        for layer in self.layers:
            step = self.counts(layer, num_visual, min(rank, num_visual))
            if step.prunes:
                left[layer] = num_visual = step.num_out
        return left

    def spell(self) -> str:
        """Tell the rule in a few words."""
        layers = ",".join(map(str, self.layers))
        return f"{self.scale:g} x rank + {self.bias:g} after layers {layers}"
