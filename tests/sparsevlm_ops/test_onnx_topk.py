"""The ops as ONNX graphs: standard operators, equal to eager, and accepted by TensorRT."""

import random

import numpy as np
import pytest
import torch

from sparsevlm_ops.onnx_topk import onnx_translations
from sparsevlm_ops.prune import Pruned, prune_step

pytest.importorskip("onnxscript")
onnx = pytest.importorskip("onnx")

NAMES = (
    "hidden_states",
    "position_ids",
    "rater_attention",
    "rater_weights",
    "prefix_length",
    "num_kept",
    "original_positions",
)
# B, P, V, T, R, K, H: the last one keeps nothing but merged tokens.
EDGE_SHAPES = [(1, 0, 2, 0, 1, 1, 1), (3, 1, 2, 1, 1, 1, 1), (3, 4, 30, 5, 2, 7, 2)]
EDGE_SHAPES += [(2, 3, 41, 4, 1, 0, 2)]


class Prune(torch.nn.Module):
    def forward(
        self,
        hidden_states,
        position_ids,
        rater_attention,
        rater_weights,
        prefix_length,
        num_kept,
        original_positions,
    ):
        return tuple(
            prune_step(
                hidden_states,
                position_ids,
                rater_attention,
                rater_weights,
                prefix_length,
                num_kept,
                original_positions,
            )
        )


def draw(shape, dtype=torch.float32, seed=0):
    B, P, V, T, R, K, H = shape
    generator = torch.Generator().manual_seed(seed)
    weights = torch.ones(B, R)
    weights[0, 1:] = 0  # padding raters
    return (
        torch.randn(B, P + V + T, 64, generator=generator).to(dtype),
        torch.arange(P + V + T).repeat(B, 1),
        torch.rand(B, H, R, V, generator=generator),
        weights,
        torch.tensor([P]),
        torch.tensor([K]),
        torch.tensor([seed % 2]),
    )


@pytest.fixture(scope="module", params=[torch.float32, torch.float16], ids=["float32", "float16"])
def exported(request, tmp_path_factory):
    path = tmp_path_factory.mktemp("prune") / "prune.onnx"
    dim = torch.export.Dim.DYNAMIC
    program = torch.onnx.export(
        torch.export.export(
            Prune(),
            draw((2, 5, 40, 7, 3, 12, 4), request.param),
            dynamic_shapes=(
                {0: dim, 1: dim},
                {0: dim, 1: dim},
                {0: dim, 1: dim, 2: dim, 3: dim},
                {0: dim, 1: dim},
                None,
                None,
                None,
            ),
        ),
        dynamo=True,
        opset_version=23,
        optimize=True,
        verbose=False,
        custom_translation_table=onnx_translations(),
        input_names=NAMES,
        output_names=Pruned._fields,
    )
    program.save(path)
    return path, request.param


def test_only_standard_operators_are_used(exported):
    model = onnx.load(exported[0])
    kinds = [node.op_type for node in model.graph.node]
    assert {node.domain for node in model.graph.node} == {""}
    assert not model.functions
    # Three top_k and the sort that puts the kept index in order.
    assert kinds.count("TopK") == 4
    refused = {"NonZero", "Compress", "OneHot", "ScatterElements", "ScatterND", "Loop", "If"}
    assert not refused & set(kinds)


def test_onnxruntime_equals_eager_whatever_the_shape(exported, ort_session):
    path, dtype = exported
    session = ort_session(path)
    rng = random.Random(0)
    shapes = list(EDGE_SHAPES)
    while len(shapes) < 30:
        V = rng.randint(2, 150)
        rest = (rng.randint(0, 12), rng.randint(1, 8), rng.randint(1, V - 1), rng.randint(1, 6))
        shapes.append((rng.randint(1, 3), rng.randint(0, 20), V, *rest))
    for seed, shape in enumerate(shapes):
        inputs = draw(shape, dtype, seed)
        feed = {name: value.numpy() for name, value in zip(NAMES, inputs, strict=True)}
        got = session.run(None, feed)
        for name, eager, array in zip(Pruned._fields, prune_step(*inputs), got, strict=True):
            assert array.dtype == eager.numpy().dtype, name
            # A merged half-precision value may round the other way: one unit in the last place.
            tolerance = 2e-3 if array.dtype == np.float16 else 1e-5
            np.testing.assert_allclose(
                array, eager.numpy(), rtol=tolerance, atol=tolerance, err_msg=f"{name} {shape}"
            )


@pytest.mark.tensorrt
def test_tensorrt_builds_the_prune_step(exported):
    tensorrt = pytest.importorskip("tensorrt")
    logger = tensorrt.Logger(tensorrt.Logger.ERROR)
    builder = tensorrt.Builder(logger)
    network = builder.create_network(0)
    parser = tensorrt.OnnxParser(network, logger)
    assert parser.parse_from_file(str(exported[0])), parser.get_error(0)
    profile = builder.create_optimization_profile()
    smallest, usual, largest = (
        draw(shape)
        for shape in (
            (1, 0, 2, 1, 1, 1, 1),
            (1, 35, 576, 53, 9, 300, 32),
            (4, 64, 2880, 64, 64, 2000, 32),
        )
    )
    for name, low, opt, high in zip(NAMES, smallest, usual, largest, strict=True):
        if name == "num_kept":
            profile.set_shape_input(name, [1], [300], [2000])
        else:
            profile.set_shape(name, tuple(low.shape), tuple(opt.shape), tuple(high.shape))
    config = builder.create_builder_config()
    config.add_optimization_profile(profile)
    assert builder.build_serialized_network(network, config) is not None
