import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from sparsevlm_ops.topk import top_k

few_levels = hnp.arrays(
    np.float32,
    hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=40),
    elements=st.sampled_from([-1.0, 0.0, 0.5, 3.0]),
)


@given(few_levels, st.data())
def test_ties_go_to_the_lower_index(values, data):
    k = data.draw(st.integers(0, values.shape[1]))
    largest, index = top_k(torch.from_numpy(values), k)
    expected = np.argsort(-values, axis=1, kind="stable")[:, :k]
    assert np.array_equal(index.numpy(), expected)
    assert np.array_equal(largest.numpy(), np.take_along_axis(values, expected, 1))


def test_the_operator_keeps_its_promises_to_the_tracer():
    torch.library.opcheck(torch.ops.sparsevlm.top_k.default, (torch.rand(2, 9), 4))
