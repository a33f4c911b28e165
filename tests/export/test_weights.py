from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
import torch
from safetensors.torch import save_file

from sparsevlm_trt.export.bundle_writer import BundleWriter
from sparsevlm_trt.export.checkpoint import Checkpoint
from sparsevlm_trt.export.graph_module import GraphModule, WeightSource
from sparsevlm_trt.export.weights import INLINE_BYTES, WeightBinder
from sparsevlm_trt.runtime.errors import ExportError

WIDE = INLINE_BYTES // 4 // 64 + 64  # columns of 64 rows of float32 that are no longer inlined


class AbandonedError(Exception):
    """Leaves a writer without a bundle."""


@pytest.fixture
def binder_of(checkpoint_of, tmp_path):
    """A binder on stored tensors; its writer is open until the test ends."""
    writers = []

    def make(stored: dict[str, torch.Tensor]) -> WeightBinder:
        folder = tmp_path / f"checkpoint_{len(writers)}"
        folder.mkdir()
        config = checkpoint_of("llama") / "config.json"
        (folder / "config.json").write_bytes(config.read_bytes())
        save_file(stored, folder / "model.safetensors")
        writer = BundleWriter(tmp_path / f"bundle_{len(writers)}")
        writer.__enter__()
        writers.append(writer)
        return WeightBinder(Checkpoint(folder), writer)

    yield make
    for writer in writers:
        writer.__exit__(AbandonedError, AbandonedError(), None)


def traced(shapes: dict[str, tuple[int, ...]], dtype: ir.DataType = ir.DataType.FLOAT) -> ir.Model:
    """A model whose initializers still hold what the tracer saw: nothing."""
    values = [
        ir.Value(
            name=name,
            shape=ir.Shape(shape),
            type=ir.TensorType(dtype),
            const_value=ir.Tensor(np.zeros(shape, dtype.numpy()), name=name),
        )
        for name, shape in shapes.items()
    ]
    graph = ir.Graph([], [], nodes=[], initializers=values, opset_imports={"": 23}, name="g")
    return ir.Model(graph, ir_version=10)


def graph_of(**weights: WeightSource) -> GraphModule:
    return GraphModule("g", torch.nn.Identity(), {}, {}, (), {}, weights=weights)


def bound(model: ir.Model, name: str) -> ir.TensorProtocol:
    tensor = model.graph.initializers[name].const_value
    assert tensor is not None
    return tensor


def test_small_weights_live_in_the_graph_and_large_ones_outside(binder_of):
    small, large = torch.randn(3, 4), torch.randn(64, WIDE)
    binder = binder_of({"small": small, "large": large})
    model = traced({"a": (3, 4), "b": (64, WIDE)})
    files = binder.bind(model, graph_of(a=WeightSource("small"), b=WeightSource("large")))
    assert isinstance(bound(model, "a"), ir.Tensor)
    np.testing.assert_array_equal(bound(model, "a").numpy(), small.numpy())
    outside = bound(model, "b")
    assert isinstance(outside, ir.ExternalTensor)
    assert [f"graphs/{outside.location}"] == list(files)
    np.testing.assert_array_equal(outside.numpy(), large.numpy())


def test_a_transposed_weight_is_laid_out_anew(binder_of):
    stored = torch.randn(64, WIDE)
    binder = binder_of({"w": stored})
    model = traced({"w": (WIDE, 64)})
    binder.bind(model, graph_of(w=WeightSource("w", transpose=True)))
    np.testing.assert_array_equal(bound(model, "w").numpy(), stored.t().numpy())


def test_tensors_stored_apart_become_one(binder_of):
    stored = {name: torch.randn(rows, WIDE) for name, rows in (("q", 48), ("k", 24), ("v", 24))}
    biases = {f"{name}.bias": torch.randn(len(weight)) for name, weight in stored.items()}
    binder = binder_of(stored | biases)
    model = traced({"w": (WIDE, 96), "b": (96,)})
    source = WeightSource("q", transpose=True, beside=("k", "v"))
    bias = WeightSource("q.bias", beside=("k.bias", "v.bias"))
    files = binder.bind(model, graph_of(w=source, b=bias))
    assert len(files) == 1
    together = torch.cat(list(stored.values())).t()
    np.testing.assert_array_equal(bound(model, "w").numpy(), together.numpy())
    np.testing.assert_array_equal(bound(model, "b").numpy(), torch.cat(list(biases.values())))


def test_parts_that_do_not_fit_are_all_named(binder_of):
    binder = binder_of({"q": torch.zeros(4, 5), "k": torch.zeros(3, 5)})
    source = WeightSource("q", transpose=True, beside=("k",))
    with pytest.raises(ExportError, match=r"tensor q \+ k is \[5, 7\] \| expected \[5, 8\]"):
        binder.bind(traced({"w": (5, 8)}), graph_of(w=source))
    binder = binder_of({"q": torch.zeros(4, 5), "k": torch.zeros(3, 6)})
    with pytest.raises(ExportError, match=r"tensors q \+ k are \[4, 5\], \[3, 6\]"):
        binder.bind(traced({"w": (5, 7)}), graph_of(w=source))


def test_equal_bytes_are_one_file_whoever_asks(binder_of):
    stored = torch.randn(64, WIDE)
    binder = binder_of({"embed": stored, "head": stored.clone()})
    first, second, third = (traced({"w": (64, WIDE)}) for _ in range(3))
    files = {
        binder.bind(first, graph_of(w=WeightSource("embed"))),
        binder.bind(second, graph_of(w=WeightSource("embed"))),
        binder.bind(third, graph_of(w=WeightSource("head"))),
    }
    assert len(files) == 1
    assert len(list((binder.writer.path / "graphs" / "weights").iterdir())) == 1


def test_a_weight_is_read_once_however_many_graphs_use_it(binder_of, monkeypatch):
    binder = binder_of({"embed": torch.randn(64, WIDE)})
    read = []
    tensor = Checkpoint.tensor
    monkeypatch.setattr(
        Checkpoint, "tensor", lambda self, name: read.append(name) or tensor(self, name)
    )
    for _ in range(2):
        binder.bind(traced({"w": (64, WIDE)}), graph_of(w=WeightSource("embed")))
    assert read == ["embed"]


def test_constants_of_the_tracer_keep_their_values(binder_of):
    binder = binder_of({"unused": torch.ones(1)})
    model = traced({"few": (3,), "many": (64, WIDE)})
    for name in ("few", "many"):
        shape = bound(model, name).shape.numpy()
        array = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
        model.graph.initializers[name].const_value = ir.Tensor(array, name=name)
    files = binder.bind(model, graph_of())
    assert len(files) == 1
    assert bound(model, "few").numpy().tolist() == [0, 1, 2]
    assert bound(model, "many").numpy()[0, :3].tolist() == [0, 1, 2]


@pytest.mark.parametrize("stored", [torch.bfloat16, torch.float32, torch.float16])
@pytest.mark.parametrize("wanted", [ir.DataType.FLOAT, ir.DataType.FLOAT16])
def test_types_are_converted_by_value(binder_of, stored, wanted):
    weight = torch.randn(64, 2 * WIDE).to(stored)
    binder = binder_of({"w": weight})
    model = traced({"w": (64, 2 * WIDE)}, wanted)
    binder.bind(model, graph_of(w=WeightSource("w")))
    target = torch.float32 if wanted == ir.DataType.FLOAT else torch.float16
    got = bound(model, "w").numpy()
    assert got.dtype == wanted.numpy()
    np.testing.assert_array_equal(got, weight.to(target).numpy())


@pytest.mark.parametrize("stored", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("shape", [(4, 4), (64, 2 * WIDE)])
def test_what_float16_cannot_hold_is_refused(binder_of, stored, shape):
    weight = torch.zeros(shape)
    weight[1, 2] = -70000.0
    binder = binder_of({"w": weight.to(stored)})
    model = traced({"w": shape}, ir.DataType.FLOAT16)
    with pytest.raises(ExportError, match=r"tensor w \| largest magnitude 7\S+ \|") as caught:
        binder.bind(model, graph_of(w=WeightSource("w")))
    assert "65504" in str(caught.value)


def test_the_largest_float16_and_small_numbers_pass(binder_of):
    weight = torch.tensor([[65504.0, -65504.0], [1e-9, 65519.0]])  # the last rounds down
    binder = binder_of({"w": weight})
    model = traced({"w": (2, 2)}, ir.DataType.FLOAT16)
    binder.bind(model, graph_of(w=WeightSource("w")))
    assert bound(model, "w").numpy().tolist() == [[65504.0, -65504.0], [0.0, 65504.0]]


def test_another_shape_names_graph_and_tensor(binder_of):
    binder = binder_of({"stored.name": torch.zeros(3, 5)})
    with pytest.raises(ExportError, match=r"graph g \| tensor stored\.name is \[5, 3\]"):
        binder.bind(traced({"w": (3, 5)}), graph_of(w=WeightSource("stored.name", transpose=True)))
