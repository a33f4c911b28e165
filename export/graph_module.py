"""A module with all that an exporter must know to make one graph of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

__all__ = ["GraphModule", "WeightSource"]


@dataclass(frozen=True, slots=True)
class WeightSource:
    """Where a graph's initializer comes from.

    Attributes:
        stored_name: Tensor name in the checkpoint.
        transpose: Whether the graph wants `[in, out]` and the checkpoint has `[out, in]`.
        beside: Tensors whose outputs the graph has behind those of the first, in this order; the
            outputs are the first axis in the checkpoint.
        scale: What the graph has it multiplied by, a power of two.
    """

    stored_name: str
    transpose: bool = False
    beside: tuple[str, ...] = ()
    scale: float = 1.0

    @property
    def spelled(self) -> str:
        """All stored names, for errors."""
        return " + ".join((self.stored_name, *self.beside))


@dataclass(frozen=True, slots=True)
class GraphModule:
    """One graph to be.

    Attributes:
        name: Name of the graph in the bundle.
        module: What it computes. Parameters on the meta device are filled at writing time from
            `weights`; others are written as they are.
        inputs: Example tensors by input name, in the order of `forward`; a list of tensors is
            one argument whose items are named by `list_names`.
        dynamic: Named dynamic axes of each input: `{"hidden_states": {0: "batch"}}`.
        outputs: Output names in order.
        output_axes: Named dynamic axes of each output.
        list_names: Names of the items of each list argument.
        weights: Sources of the meta parameters, by parameter name.
    """

    name: str
    module: nn.Module
    inputs: Mapping[str, Tensor | list[Tensor]]
    dynamic: Mapping[str, Mapping[int, str]]
    outputs: tuple[str, ...]
    output_axes: Mapping[str, Mapping[int, str]]
    list_names: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    weights: Mapping[str, WeightSource] = field(default_factory=dict)

    @property
    def input_names(self) -> tuple[str, ...]:
        """Flat input names, in graph order."""
        names: list[str] = []
        for name in self.inputs:
            names.extend(self.list_names.get(name, (name,)))
        return tuple(names)

    def dynamic_shapes(self) -> tuple[Any, ...]:
        """The dynamic axes in the nesting that `torch.export` wants."""
        return tuple(
            [dict(self.dynamic[name])] * len(value)
            if isinstance(value, list)
            else dict(self.dynamic[name])
            for name, value in self.inputs.items()
        )
