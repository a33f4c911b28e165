"""Hidden states kept times a power of two, so that float16 can hold them.

Between layers, hidden states are read through RMS norms alone, whose result does not change when
input and the root of epsilon are scaled alike. So with s = 2^-k:

- what enters the first stage is multiplied by s (`ResidualEntry`), features for layers too;
- what joins it is made s times smaller by its weights: the attention's output projection, the
  MLP's `up_proj`, whose product with the gate shrinks with it, and the biases behind either;
- the norms that read it have s^2 times their epsilon; those of heads read nothing scaled;
- clusters, whose densities depend on the scale, are found on rows divided by s, in float32.

Powers of two multiply without rounding: a float32 bundle computes the same numbers to the bit,
and a float16 one to what its smallest numbers (below 6e-5) lose.
"""

from __future__ import annotations

from torch import Tensor, nn

__all__ = ["ResidualEntry", "weight_scale"]

_SCALED = (
    "self_attn.o_proj.weight",
    "self_attn.o_proj.bias",
    "mlp.up_proj.weight",
    "mlp.up_proj.bias",
    "mlp.down_proj.bias",
)


class ResidualEntry(nn.Module):
    """Multiplies what enters the residual stream."""

    def __init__(self, scale: float) -> None:
        """Remember s."""
        super().__init__()
        self.scale = scale

    def forward(self, hidden: Tensor) -> Tensor:
        """`[B, S, N]` to the same, times s."""
        return hidden if self.scale == 1.0 else hidden * self.scale


def weight_scale(name: str, residual_scale: float) -> float:
    """What a parameter of a decoder layer is multiplied by.

    Args:
        name: Its name in a stage, `layers.3.mlp.up_proj.weight`.
        residual_scale: s.
    """
    return residual_scale if name.endswith(_SCALED) else 1.0
