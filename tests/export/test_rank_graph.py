"""The rank graph on ONNX Runtime against `torch.linalg.matrix_rank`, an SVD."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import onnx_ir as ir
import pytest
import torch

from sparsevlm_trt.export.checkpoint import Checkpoint
from sparsevlm_trt.export.families.registry import open_family
from sparsevlm_trt.export.to_onnx import onnx_from_module

_SPEC = importlib.util.spec_from_file_location(
    "attention_like", Path(__file__).with_name("attention_like.py")
)
attention_like = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(attention_like)


@pytest.fixture(scope="module")
def rank_of(checkpoint_of, ort_session, tmp_path_factory):
    family = open_family(Checkpoint(checkpoint_of("llama")), torch.float32)
    model = onnx_from_module(family.language.rank(), 23)
    path = tmp_path_factory.mktemp("rank") / "rank.onnx"
    ir.save(model, path)
    kinds = [node.op_type for node in model.graph]
    assert kinds.count("Loop") == 2
    session = ort_session(path)

    def rank(attention, weights=None):
        weights = (
            torch.ones(attention.shape[0], attention.shape[2]) if weights is None else weights
        )
        given = {"rater_attention": attention.numpy(), "rater_weights": weights.numpy()}
        return session.run(None, given)[0].tolist()

    return rank


def disagreements(rank_of, seeds):
    found = []
    for seed in seeds:
        kind, matrix = attention_like.draw(seed)
        ours = rank_of(matrix[None, None])[0]
        theirs = int(torch.linalg.matrix_rank(matrix))
        if ours != theirs:
            found.append((seed, kind, tuple(matrix.shape), ours, theirs))
    return found


def test_it_is_the_svds_rank(rank_of):
    assert disagreements(rank_of, range(60)) == []


@pytest.mark.slow
def test_it_is_the_svds_rank_of_ten_thousand(rank_of):
    found = disagreements(rank_of, range(10_000))
    for row in found:
        print("rank: seed {}, {}, {}: {}, the SVD's {}".format(*row))
    assert len(found) <= 10, found
    assert all(abs(ours - theirs) == 1 for *_, ours, theirs in found)


def test_rows_of_a_batch_are_what_they_are_alone(rank_of):
    rows = [torch.softmax(torch.randn(2, 5, 40), -1) for _ in range(2)]
    rows.append(rows[0][:, [0, 0, 1, 1, 1]])
    assert rank_of(torch.stack(rows)) == [5, 5, 2]


def test_raters_that_fill_up_count_for_nothing(rank_of):
    attention = torch.softmax(torch.randn(1, 2, 5, 40), -1)
    assert rank_of(attention, torch.tensor([[1.0, 1.0, 1.0, 0.0, 0.0]])) == [3]


@pytest.mark.parametrize("attention", [torch.zeros(1, 1, 3, 4), torch.full((1, 1, 3, 4), 1e-30)])
def test_no_attention_has_no_rank_and_little_has_one(rank_of, attention):
    assert rank_of(attention) == [int(attention.any())]
