"""A stage graph rewritten so that the engine keeps keys and values: no step copies the past.

In the bundle a stage takes the past as inputs and gives the new entries as outputs: every step
converts, joins and repeats the whole past. OpenVINO's attention can append to a cache of its own
and read it in place, for several query heads to a key head, where it finds this pattern: a
variable, Gather by `beam_idx`, Concat, Multiply by ones to repeat the heads, Transpose, attention.

Dims: B batch, S new tokens, L cache length, H heads, G kv heads, D head size.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from sparsevlm_trt.runtime.graph_spec import StageSpec
from sparsevlm_trt.runtime.model_spec import ModelSpec

__all__ = ["hold_cache"]

_PAST, _NEW = "past_key_values", "new_key_values"


def hold_cache(model: Any, stage: StageSpec, spec: ModelSpec) -> bool:
    """Move a stage's cache into the engine.

    The past and new keys and values are no longer inputs and outputs; `beam_idx` `[B]` int32
    (0, 1, ...) and `num_past` `[1]` int64 (L) are new inputs.

    Args:
        model: The stage's openvino.Model as it was read; changed in place.
        stage: Its layers.
        spec: Shape of the model.

    Returns:
        Whether the graph has the form this needs; if not, the model is as it was.
    """
    attentions = [
        node
        for node in model.get_ordered_ops()
        if node.get_type_name() == "ScaledDotProductAttention"
    ]
    inputs = {value.get_any_name(): value for value in model.inputs}
    outputs = {value.get_any_name(): value for value in model.outputs}
    layers = range(stage.first, stage.stop)
    parts = [f"{layer}.{part}" for layer in layers for part in ("key", "value")]
    sound = len(attentions) == len(layers) and all(
        f"{_PAST}.{part}" in inputs and f"{_NEW}.{part}" in outputs for part in parts
    )
    if not sound or "hidden_states" not in inputs:
        return False
    rewrite = _Rewrite(model, spec, inputs["hidden_states"])
    for attention, layer in zip(attentions, layers, strict=True):
        for port, part in ((1, f"{layer}.key"), (2, f"{layer}.value")):
            result = outputs[f"{_NEW}.{part}"].get_node()
            new = result.input_value(0)  # [B, S, G*D]
            attention.input(port).replace_source_output(rewrite.attended(new, part))
            past = inputs[f"{_PAST}.{part}"].get_node()
            rewrite.detach(past)
            model.remove_result(result)
    rewrite.finish([inputs[f"{_PAST}.{part}"].get_node() for part in parts])
    return True


class _Rewrite:
    """The nodes that all layers of one graph share, and the variables made so far."""

    def __init__(self, model: Any, spec: ModelSpec, hidden: Any) -> None:
        import openvino as ov
        from openvino import opset13 as ops

        self._ov, self._ops, self._model, self._spec = ov, ops, model, spec
        self._beam = ops.parameter([-1], ov.Type.i32, name="beam_idx")
        self._num_past = ops.parameter([1], ov.Type.i64, name="num_past")
        for parameter in (self._beam, self._num_past):
            parameter.output(0).set_names({parameter.get_friendly_name()})
        self._type = hidden.get_element_type()
        self._batch = ops.gather(ops.shape_of(hidden), self._ints([0]), self._ints(0))
        width = spec.num_kv_heads * spec.head_dim
        self._past_shape = ops.concat([self._batch, self._num_past, self._ints([width])], 0)
        self._sinks: list[Any] = []
        self._variables: list[Any] = []

    def attended(self, new: Any, name: str) -> Any:
        """All entries of a layer's keys or values, as attention reads them, `[B, H, L+S, D]`."""
        ops, spec = self._ops, self._spec
        entries = self._join(new, name)
        repeats = spec.num_heads // spec.num_kv_heads
        if repeats > 1:
            ones = np.ones((1, 1, 1, repeats, 1), np.float32)
            grouped = ops.unsqueeze(entries, self._ints(3))
            # Multiply is the form that the engine takes for "these heads share an entry".
            repeated = ops.multiply(grouped, ops.constant(ones))
            shape = self._ints([0, 0, spec.num_heads, spec.head_dim])
            entries = ops.reshape(repeated, shape, special_zero=True)
        return self._given(ops.transpose(entries, self._ints([0, 2, 1, 3])))

    def detach(self, past: Any) -> None:
        """Let whoever asks for the shape of the past find it elsewhere."""
        for reader in list(past.output(0).get_target_inputs()):
            node = reader.get_node()
            if node.get_type_name() == "ShapeOf":
                node.output(0).replace(self._past_shape.output(0))

    def finish(self, past: list[Any]) -> None:
        """Register the new nodes and drop the old inputs."""
        self._model.add_parameters([self._beam, self._num_past])
        self._model.add_sinks(self._sinks)
        self._model.add_variables(self._variables)
        for parameter in past:
            self._model.remove_parameter(parameter)
        self._model.validate_nodes_and_infer_types()

    def _join(self, new: Any, name: str) -> Any:
        """A variable followed by the new entries, `[B, L+S, G, D]`, and kept for the next call."""
        from openvino.op.util import Variable, VariableInfo

        ops, heads, size = self._ops, self._spec.num_kv_heads, self._spec.head_dim
        info = VariableInfo()
        info.data_shape = self._ov.PartialShape([-1, -1, heads, size])
        # Float32 whatever the model's type: the engine chooses the type that it keeps, and
        # fails on a half-precision variable that starts empty.
        info.data_type, info.variable_id = self._ov.Type.f32, name
        variable = Variable(info)
        empty = ops.concat([self._batch, self._ints([0, heads, size])], 0)
        zero = ops.constant(np.zeros((), np.float32))
        kept = ops.read_value(ops.broadcast(zero, empty), variable)
        rows = ops.gather(kept, self._beam, self._ints(0))
        shaped = ops.reshape(new, self._ints([0, 0, heads, size]), special_zero=True)
        joined = ops.concat([rows, ops.convert(shaped, "f32")], 1)
        self._sinks.append(ops.assign(joined, variable))
        self._variables.append(variable)
        return joined

    def _given(self, node: Any) -> Any:
        """An output in the model's own type."""
        return self._ops.convert(node, self._type).output(0)

    def _ints(self, values: Any) -> Any:
        return self._ops.constant(np.array(values, np.int64))
