"""Device arrays slice, fill and read as numpy arrays do, on memory that numpy does not see."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparsevlm_trt.runtime.device_array import DeviceArray, contiguous, joined
from sparsevlm_trt.runtime.ort_memory import OrtMemory

MEMORY = OrtMemory(onnxruntime, "cpu")


def device_array(array):
    made = DeviceArray.empty(MEMORY, array.shape, array.dtype)
    made[...] = array
    return made


def numbered(*shape, dtype=np.float32):
    return np.arange(np.prod(shape), dtype=dtype).reshape(shape)


@st.composite
def array_and_index(draw):
    shape = draw(st.lists(st.integers(1, 4), min_size=1, max_size=4))
    parts = []
    for size in shape[: draw(st.integers(1, len(shape)))]:
        bounds = st.one_of(st.none(), st.integers(-size - 1, size + 1))
        slices = st.builds(slice, bounds, bounds)
        parts.append(draw(st.one_of(st.integers(-size, size - 1), slices)))
    return numbered(*shape, dtype=draw(st.sampled_from([np.float16, np.int64]))), tuple(parts)


@given(array_and_index())
def test_an_index_means_what_it_means_to_numpy(case):
    array, index = case
    view, expected = device_array(array)[index], array[index]
    assert (view.shape, view.dtype, view.nbytes) == (expected.shape, array.dtype, expected.nbytes)
    assert np.array_equal(np.asarray(view), expected)
    assert view.is_contiguous == expected.flags.c_contiguous
    assert np.array_equal(np.asarray(view.contiguous()), expected)


@given(array_and_index())
def test_none_in_front_is_an_axis_of_one(case):
    array, index = case
    view, expected = device_array(array)[(None, *index)], array[(None, *index)]
    assert view.shape == expected.shape
    assert view.is_contiguous == expected.flags.c_contiguous
    assert np.array_equal(np.asarray(view), expected)
    assert np.array_equal(np.asarray(device_array(array)[None]), array[None])


@given(array_and_index(), st.booleans())
def test_filling_a_part_leaves_the_rest_alone(case, from_device):
    array, index = case
    made, expected = device_array(array), array.copy()
    value = np.asarray(-array[index])
    made[index] = device_array(value) if from_device else value
    expected[index] = value
    assert np.array_equal(np.asarray(made), expected)


def test_gaps_of_two_kinds_are_copied_plane_by_plane():
    array = numbered(3, 4, 5, 2)
    source, target = device_array(array)[:, 1:3, :4], device_array(0 * array)
    target[:, :2, 1:] = source
    expected = 0 * array
    expected[:, :2, 1:] = array[:, 1:3, :4]
    assert np.array_equal(np.asarray(target), expected)


def test_a_view_shares_its_memory_and_keeps_it():
    whole = device_array(numbered(2, 3))
    row = whole[1]
    assert row.pointer == whole.pointer + 12
    row[...] = np.zeros(3, np.float32)
    assert np.asarray(whole)[1].tolist() == [0, 0, 0]
    del whole
    assert np.asarray(row).tolist() == [0, 0, 0]


def test_values_that_do_not_fit_are_refused():
    made = device_array(numbered(2, 3))
    for value in (numbered(3), numbered(2, 3, dtype=np.float16), device_array(numbered(2, 2))):
        with pytest.raises(ValueError, match="device array"):
            made[...] = value
    with pytest.raises(IndexError):
        made[2]
    with pytest.raises(IndexError, match="step"):
        made[:, ::2]


@pytest.mark.parametrize("axis", [0, 1])
def test_parts_are_joined_where_they_live(axis):
    parts = [numbered(2, 3, 4), -numbered(2, 3, 4)]
    expected = np.concatenate(parts, axis)
    assert isinstance(joined(parts, axis, np.empty), np.ndarray)
    mixed = [device_array(parts[0]), parts[1]]
    whole = joined(mixed, axis, lambda *args: DeviceArray.empty(MEMORY, *args))
    assert isinstance(whole, DeviceArray)
    assert np.array_equal(np.asarray(whole), expected)


def test_contiguous_copies_only_where_there_are_gaps():
    made = device_array(numbered(1, 4, 2))
    assert contiguous(made[:, 1:3]).pointer == made[:, 1:3].pointer
    rows = device_array(numbered(2, 4, 2))[:, -1]
    assert contiguous(rows).pointer != rows.pointer
    assert np.asarray(contiguous(rows)).tolist() == [[6, 7], [14, 15]]
