"""Float32 islands: the nodes around a large tensor, casts at the rim, and nothing else."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from sparsevlm_trt.export.islands import widen
from sparsevlm_trt.runtime.errors import ExportError

HALF = TensorProto.FLOAT16
WEIGHT = np.array([[300, 0], [0, 1]], np.float16)


def model_of(*nodes: onnx.NodeProto, output: str = "y") -> ir.Model:
    """A float16 graph from `x` `[n, 2]` with the weight `w`; all its tensors have types."""
    graph = helper.make_graph(
        list(nodes),
        "g",
        [helper.make_tensor_value_info("x", HALF, ["n", 2])],
        [helper.make_tensor_value_info(output, HALF, ["n", 2])],
        [numpy_helper.from_array(WEIGHT, "w"), numpy_helper.from_array(np.float16(0.01), "c")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 23)], ir_version=10)
    return ir.from_proto(onnx.shape_inference.infer_shapes(model))


def node(op: str, inputs: list[str], output: str, **attributes: object) -> onnx.NodeProto:
    return helper.make_node(op, inputs, [output], name=op.lower(), **attributes)


def chain() -> ir.Model:
    """x -> MatMul -> Relu -> Mul -> Neg -> y, with 1e5 between MatMul and Mul."""
    return model_of(
        node("MatMul", ["x", "w"], "big"),
        node("Relu", ["big"], "also_big"),
        node("Mul", ["also_big", "c"], "small"),
        node("Neg", ["small"], "y"),
    )


def run(model: ir.Model) -> np.ndarray:
    """As its types say, in half precision too."""
    proto = ir.to_proto(model)
    onnx.checker.check_model(proto, full_check=True)
    with np.errstate(over="ignore"):
        (y,) = ReferenceEvaluator(proto).run(None, {"x": np.array([[400, 2]], np.float16)})
    return y


def kinds(model: ir.Model) -> list[str]:
    return [made.op_type for made in model.graph]


def test_an_island_holds_what_half_precision_does_not():
    plain, wide = chain(), chain()
    assert np.isinf(run(plain)).any()
    found = widen(wide, "g", {"matmul": 1.2e5, "relu": 1.2e5, "elsewhere": 1e9})
    assert found == ("matmul", "relu", "mul")
    y = run(wide)
    assert y.dtype == np.float16
    np.testing.assert_allclose(y, [[-1200.8, -0.02]], rtol=1e-3)


def test_casts_stand_at_the_rim_alone():
    model = chain()
    widen(model, "g", {"matmul": 1.2e5, "relu": 1.2e5})
    # Of x, the weight and the constant, then of what leaves.
    assert kinds(model) == ["Cast", "Cast", "MatMul", "Relu", "Cast", "Mul", "Cast", "Neg"]
    wide = {value.name for made in model.graph for value in made.outputs if value.dtype == 1}
    assert wide == {"x_float32", "w_float32", "c_float32", "big", "also_big", "small"}


def test_what_leaves_the_graph_keeps_its_name_and_type():
    model = model_of(node("MatMul", ["x", "w"], "big"), node("Mul", ["big", "c"], "y"))
    widen(model, "g", {"matmul": 1.2e5})
    assert [(value.name, value.dtype) for value in model.graph.outputs] == [("y", HALF)]
    np.testing.assert_allclose(run(model), [[1200.8, 0.02]], rtol=1e-3)


def test_a_cast_to_half_precision_becomes_none():
    model = model_of(
        node("MatMul", ["x", "w"], "first"),
        helper.make_node("Cast", ["first"], ["single"], name="up", to=TensorProto.FLOAT),
        helper.make_node("Cast", ["single"], ["big"], name="down", to=HALF),
        node("Mul", ["big", "c"], "y"),
    )
    widen(model, "g", {"matmul": 1.2e5, "down": 1.2e5})
    np.testing.assert_allclose(run(model), [[1200.8, 0.02]], rtol=1e-3)


def test_what_only_moves_is_as_large():
    model = model_of(
        node("MatMul", ["x", "w"], "big"),
        helper.make_node("Transpose", ["big"], ["turned"], name="t1"),
        helper.make_node("Transpose", ["turned"], ["back"], name="t2"),
        node("Mul", ["back", "c"], "y"),
    )
    assert widen(model, "g", {"matmul": 1.2e5}) == ("matmul", "t1", "t2", "mul")
    np.testing.assert_allclose(run(model), [[1200.8, 0.02]], rtol=1e-3)


def test_nothing_large_changes_nothing():
    model = chain()
    assert widen(model, "g", {}) == ()
    assert kinds(model) == ["MatMul", "Relu", "Mul", "Neg"]


@pytest.mark.parametrize(
    ("node_name", "said"), [("neg", "leaves the graph as y"), ("matmul", "Attention")]
)
def test_what_cannot_be_wide_is_refused_beyond_the_limit_alone(node_name, said):
    def made() -> ir.Model:
        model = chain()
        if node_name == "matmul":
            next(one for one in model.graph if one.name == "relu").op_type = "Attention"
        return model

    with pytest.raises(ExportError, match=said) as caught:
        widen(made(), "g", {node_name: 7e4})
    assert "--dtype float32" in str(caught.value)
    model = made()
    assert widen(model, "g", {node_name: 6e4}) == ()
    assert "Cast" not in kinds(model)
