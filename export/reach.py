"""What could bring each tensor of a float32 graph within float16's range.

The residual scale reaches what grows with the hidden states between layers: it is followed through
a stage graph from its inputs and from the weights that carry the scale. Everything else of a
decoder layer, and all of a vision tower, can be computed in float32 islands.
"""

from __future__ import annotations

import onnx

from sparsevlm_trt.export.scan_report import Remedy
from sparsevlm_trt.runtime.graph_spec import decides

__all__ = ["remedies"]

_ENTRIES = ("hidden_states", "deepstack_features")
_CARRIERS = (".self_attn.o_proj.weight", ".mlp.up_proj.weight")
# Their result is as many times as large as what they read.
_MOVES = frozenset(
    [
        "Cast",
        "Concat",
        "Expand",
        "Gather",
        "Identity",
        "Reshape",
        "Slice",
        "Split",
        "Squeeze",
        "Transpose",
        "Unsqueeze",
    ]
)
_LINEAR = _MOVES | {"Add", "Sub", "Mul", "MatMul"}


def remedies(name: str, model: onnx.ModelProto) -> dict[str, Remedy]:
    """Say for every tensor that a node makes what would keep it within float16's range.

    Args:
        name: The graph's name in its bundle.
        model: As `sparsevlm export` wrote it, float32.

    Returns:
        By the tensor's name: "scale", the residual scale; "island", float32 for its node;
        "float32", nothing, as it is float32 in a float16 bundle too.
    """
    is_stage, is_prune = name.startswith("stage_"), name.startswith("prune_")
    # Prune steps move hidden states, and compute with them in float32 alone.
    scaled = _scaled(model, _LINEAR if is_stage else _MOVES) if is_stage or is_prune else set()
    found: dict[str, Remedy] = {}
    for node in model.graph.node:
        # Of a stage, what no layer made: masks and rotary angles.
        outside = is_stage and not str(node.name).startswith("layers.")
        always = outside or decides(name)
        for made in node.output:
            found[made] = "scale" if made in scaled else "float32" if always else "island"
    return found


def _scaled(model: onnx.ModelProto, operators: frozenset[str]) -> set[str]:
    """The tensors that are s times as large where hidden states are."""
    weights = {tensor.name for tensor in model.graph.initializer}
    scaled = {name for name in weights if name.endswith(_CARRIERS)}
    scaled |= {value.name for value in model.graph.input if value.name in _ENTRIES}
    for node in model.graph.node:
        if node.op_type in operators and scaled.intersection(node.input):
            scaled.update(node.output)
    return scaled
