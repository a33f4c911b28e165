import numpy as np
import onnx_ir as ir
import pytest
import torch

from sparsevlm_trt.export.graph_module import GraphModule
from sparsevlm_trt.export.onnx_passes import (
    check_standard,
    gemm_from_transposes,
    name_dims,
    name_nodes,
    tidy,
)
from sparsevlm_trt.runtime.errors import ExportError

SCOPES = "pkg.torch.onnx.name_scopes"


def value(name, shape=(2, 3)):
    kind = ir.TensorType(ir.DataType.FLOAT)
    return ir.Value(name=name, shape=ir.Shape(shape), type=kind)


def model_of(inputs, outputs, nodes, **more):
    graph = ir.Graph(inputs, outputs, nodes=nodes, opset_imports={"": 23}, name="traced")
    return ir.Model(graph, ir_version=10, **more)


def test_attention_keeps_only_the_outputs_that_are_read():
    q, k, v = value("q"), value("k"), value("v")
    attention = ir.Node("", "Attention", [q, k, v], num_outputs=4)
    topk = ir.Node("", "TopK", [attention.outputs[0], k], num_outputs=2)
    tidy(model_of([q, k, v], [topk.outputs[0]], [attention, topk]))
    assert len(attention.outputs) == 1
    assert len(topk.outputs) == 2  # TensorRT wants both


def test_attention_keeps_an_output_of_the_graph():
    q, k, v = value("q"), value("k"), value("v")
    attention = ir.Node("", "Attention", [q, k, v], num_outputs=4)
    tidy(model_of([q, k, v], [attention.outputs[0], attention.outputs[2]], [attention]))
    assert len(attention.outputs) == 3


def test_nodes_are_named_by_their_module_and_nothing_else_is_told():
    x = value("x")
    scope = "['', 'layers.3', 'layers.3.self_attn.q_proj', 'matmul']"
    first = ir.Node("", "MatMul", [x, x], metadata_props={SCOPES: scope, "stack": "/home/me/a.py"})
    second = ir.Node("", "MatMul", [first.outputs[0], x], metadata_props={SCOPES: scope})
    bare = ir.Node("", "Relu", [second.outputs[0]], doc_string="line 3 of a.py")
    x.metadata_props["from"] = "/home/me"
    model = model_of([x], [bare.outputs[0]], [first, second, bare], producer_version="1.2.3")
    model.metadata_props["path"] = "/home/me"
    name_nodes(model)
    assert [node.name for node in model.graph] == [
        "layers.3.self_attn.q_proj/MatMul",
        "layers.3.self_attn.q_proj/MatMul_2",
        "Relu",
    ]
    text = str(ir.to_proto(model))
    assert "/home/me" not in text
    assert "a.py" not in text
    assert "1.2.3" not in text


def graph_module(inputs, dynamic, outputs, output_axes, **more):
    return GraphModule("g", torch.nn.Identity(), inputs, dynamic, outputs, output_axes, **more)


def test_named_axes_are_written_on_both_ends():
    x, y = value("x", ("s0", 3)), value("y", ("s0", "s1 + 1"))
    node = ir.Node("", "Relu", [x], outputs=[y])
    graph = graph_module(
        {"x": torch.zeros(2, 3)},
        {"x": {0: "batch"}},
        ("y",),
        {"y": {0: "batch", 1: "next_seq_len"}},
    )
    name_dims(model_of([x], [y], [node]), graph)
    assert [str(d) if not isinstance(d, int) else d for d in x.shape] == ["batch", 3]
    assert [str(d) for d in y.shape] == ["batch", "next_seq_len"]


def test_items_of_a_list_share_its_axes():
    items = [value("past.0", ("s0", 3)), value("past.1", ("s0", 3))]
    node = ir.Node("", "Add", items)
    node.outputs[0].name, node.outputs[0].shape = "y", ir.Shape(("s0", 3))
    graph = graph_module(
        {"past": [torch.zeros(2, 3)] * 2},
        {"past": {0: "past_len"}},
        ("y",),
        {"y": {0: "past_len"}},
        list_names={"past": ("past.0", "past.1")},
    )
    assert graph.input_names == ("past.0", "past.1")
    assert graph.dynamic_shapes() == ([{0: "past_len"}] * 2,)
    name_dims(model_of(items, node.outputs, [node]), graph)
    assert [str(item.shape[0]) for item in items] == ["past_len", "past_len"]


def test_foreign_operators_are_named():
    x = value("x")
    node = ir.Node("com.microsoft", "Gelu", [x])
    with pytest.raises(ExportError, match=r"com\.microsoft::Gelu") as caught:
        check_standard(model_of([x], node.outputs, [node]), "stage_0")
    assert "graph stage_0" in str(caught.value)


def test_foreign_operators_hide_in_no_branch():
    x = value("x")
    inner = ir.Node("com.microsoft", "Gelu", [x])
    branch = ir.Graph([], inner.outputs, nodes=[inner], name="branch")
    choice = ir.Value(name="c", const_value=ir.Tensor(np.array(True), name="c"))
    node = ir.Node("", "If", [choice], [ir.AttrGraph("then_branch", branch)])
    with pytest.raises(ExportError, match="Gelu"):
        check_standard(model_of([x], node.outputs, [node]), "stage_0")


def test_standard_operators_pass():
    x = value("x")
    node = ir.Node("", "Relu", [x])
    check_standard(model_of([x], node.outputs, [node]), "stage_0")


@pytest.mark.parametrize("weight_first", [True, False])
def test_a_product_between_transposes_becomes_a_gemm(weight_first, ort_session):
    rng = np.random.default_rng(0)
    weight, hidden = (
        rng.standard_normal((7, 4), np.float32),
        rng.standard_normal((3, 4), np.float32),
    )
    table = ir.Value(name="table", const_value=ir.tensor(weight if weight_first else weight.T))
    given = ir.val("hidden", ir.DataType.FLOAT, ["batch", 4])
    turned = ir.node("Transpose", [given], {"perm": [1, 0]})
    if weight_first:
        product = ir.node("MatMul", [table, turned.outputs[0]])
        last = ir.node("Transpose", product.outputs, {"perm": [1, 0]})
        nodes = [turned, product, last]
    else:  # not of the form: the weight is the second operand
        last = ir.node("MatMul", [given, table])
        nodes = [last]
    last.outputs[0].name = "logits"
    last.outputs[0].dtype = ir.DataType.FLOAT
    graph = ir.Graph(
        [given], last.outputs, nodes=nodes, initializers=[table], opset_imports={"": 23}, name="g"
    )
    model = ir.Model(graph, ir_version=10)
    gemm_from_transposes(model)
    kinds = [node.op_type for node in model.graph]
    assert kinds == (["Gemm"] if weight_first else ["MatMul"])
    session = ort_session(ir.to_proto(model).SerializeToString())
    (logits,) = session.run(["logits"], {"hidden": hidden})
    np.testing.assert_allclose(logits, hidden @ weight.T, atol=1e-5)
