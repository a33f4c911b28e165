"""Arrays in the memory where an engine computes, used by the chain as numpy arrays are."""

from __future__ import annotations

import itertools
import math
import operator
from collections.abc import Sequence
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import DTypeLike, NDArray

__all__ = ["Allocate", "Copy", "DeviceArray", "Memory", "Tensor", "contiguous", "joined", "zeros"]

Array = NDArray[Any]
Way = Literal["to_device", "to_host", "within"]
Lines = tuple[int, int]  # address of the first row, bytes from one row to the next


class Copy(Protocol):
    """Copies rows of bytes."""

    def __call__(
        self, way: Way, target: Lines, source: Lines, /, *, rows: int, width: int
    ) -> None:
        """Copy, and return when done.

        Args:
            way: Which of the two is the device's: the target, the source, or both.
            target: Where to write.
            source: What to read.
            rows: How many.
            width: Bytes of each.
        """


class Memory(Protocol):
    """One device's memory."""

    @property
    def copy(self) -> Copy:
        """Copies from, to and within it."""

    def allocate(self, size_bytes: int) -> tuple[int, object]:
        """Reserve bytes: return their address, and an object whose end frees them."""


class DeviceArray:
    """A view of device memory that the chain slices, fills and reads like a numpy array.

    It takes whole numbers and slices of step 1 as an index, a None before them for an axis of
    one, and assigns arrays of exactly the indexed shape and type; `np.asarray` copies it to the
    host. Everything else is a graph's work.

    Attributes:
        shape: Sizes.
        dtype: Of one value, as numpy names it.
        pointer: Address of the first value.
    """

    __slots__ = ("_memory", "_owner", "_strides", "dtype", "pointer", "shape")

    def __init__(
        self,
        memory: Memory,
        pointer: int,
        shape: Sequence[int],
        dtype: DTypeLike,
        owner: object,
        strides: Sequence[int] | None = None,
    ) -> None:
        """Take memory that is there.

        Args:
            memory: Whose it is.
            pointer: Address of the first value.
            shape: Sizes.
            dtype: Of one value.
            owner: Kept as long as the view: its end frees the memory.
            strides: Bytes from one value to the next along each axis; None: no gaps.
        """
        self._memory, self._owner, self.pointer = memory, owner, pointer
        self.shape, self.dtype = tuple(shape), np.dtype(dtype)
        tight = _tight_strides(self.shape, self.dtype.itemsize)
        self._strides = tight if strides is None else tuple(strides)

    @classmethod
    def empty(cls, memory: Memory, shape: Sequence[int], dtype: DTypeLike) -> DeviceArray:
        """Reserve an array; what it holds is undefined."""
        size_bytes = math.prod(shape) * np.dtype(dtype).itemsize
        pointer, owner = memory.allocate(size_bytes)
        return cls(memory, pointer, shape, dtype, owner)

    @property
    def owner(self) -> object:
        """What holds the memory."""
        return self._owner

    @property
    def ndim(self) -> int:
        """How many axes."""
        return len(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes of the values."""
        return math.prod(self.shape) * self.dtype.itemsize

    @property
    def is_contiguous(self) -> bool:
        """Whether the values lie without gaps, so that an engine can take the address."""
        tight = _tight_strides(self.shape, self.dtype.itemsize)
        sides = zip(self.shape, self._strides, tight, strict=True)
        return 0 in self.shape or all(size == 1 or mine == full for size, mine, full in sides)

    def __len__(self) -> int:
        """Size of the first axis."""
        return self.shape[0]

    def __getitem__(self, index: Any) -> DeviceArray:
        """Return a view, as numpy would."""
        parts = index if isinstance(index, tuple) else (index,)
        if parts[:1] == (None,):
            view = self[parts[1:]]
            shape, strides = [1, *view.shape], [view.nbytes, *view._strides]
            return DeviceArray(self._memory, view.pointer, shape, self.dtype, self._owner, strides)
        pointer, shape, strides = self.pointer, list[int](), list[int]()
        for axis, size in enumerate(self.shape):
            part = parts[axis] if axis < len(parts) else slice(None)
            if isinstance(part, slice):
                start, stop, step = part.indices(size)
                if step != 1:
                    raise IndexError(f"device array | got step {step} | expected 1")
                shape.append(max(0, stop - start))
                strides.append(self._strides[axis])
            else:
                start = range(size)[part]  # checks the bounds, and counts from the end
            pointer += start * self._strides[axis]
        return DeviceArray(self._memory, pointer, shape, self.dtype, self._owner, strides)

    def __setitem__(self, index: Any, value: Tensor) -> None:
        """Copy values in, from the host or within the device."""
        target = self[index] if index is not ... else self
        if target.shape != value.shape or target.dtype != value.dtype:
            raise ValueError(
                f"device array | got {value.dtype} {list(value.shape)} | expected "
                f"{target.dtype} {list(target.shape)}"
            )
        if isinstance(value, DeviceArray):
            target._transfer("within", value._strides, value.pointer)
        else:
            value = np.ascontiguousarray(value)
            target._transfer("to_device", value.strides, value.ctypes.data)

    def __array__(self, dtype: DTypeLike | None = None, copy: bool | None = None) -> Array:
        """Copy to the host."""
        array = np.empty(self.shape, self.dtype)
        self._transfer("to_host", array.strides, array.ctypes.data)
        return array if dtype is None else array.astype(dtype, copy=False)

    def contiguous(self) -> DeviceArray:
        """Return the array itself, or a copy without gaps."""
        if self.is_contiguous:
            return self
        copy = DeviceArray.empty(self._memory, self.shape, self.dtype)
        copy[...] = self
        return copy

    def _transfer(self, way: Way, strides: Sequence[int], other: int) -> None:
        """Copy between this view and memory at `other` of the same shape, whole runs at a time."""
        if 0 in self.shape:
            return
        axis, width = len(self.shape), self.dtype.itemsize
        while axis and (
            self.shape[axis - 1] == 1 or self._strides[axis - 1] == strides[axis - 1] == width
        ):
            axis -= 1
            width *= self.shape[axis]
        if axis > 1:
            for number in range(self.shape[0]):
                self[number]._transfer(way, strides[1:], other + number * strides[0])
            return
        rows = self.shape[0] if axis else 1
        mine = (self.pointer, self._strides[0] if axis else width)
        theirs = (other, strides[0] if axis else width)
        target, source = (theirs, mine) if way == "to_host" else (mine, theirs)
        self._memory.copy(way, target, source, rows=rows, width=width)


Tensor = NDArray[Any] | DeviceArray


class Allocate(Protocol):
    """Reserves an array where an engine computes; `Runner.empty`, or `np.empty`."""

    def __call__(self, shape: Sequence[int], dtype: DTypeLike, /) -> Tensor:
        """Return an array whose values are undefined."""


def contiguous(array: Tensor) -> Tensor:
    """Return an array without gaps: the given one, or a copy where it lives."""
    if isinstance(array, DeviceArray):
        return array.contiguous()
    return np.ascontiguousarray(array)


def zeros(shape: Sequence[int], dtype: DTypeLike, empty: Allocate) -> Tensor:
    """Reserve zeros where an engine computes: a masked entry weighs 0, and 0 x garbage may be NaN.

    Args:
        shape: Sizes.
        dtype: Type.
        empty: Reserves memory there.
    """
    array = empty(shape, dtype)
    if isinstance(array, np.ndarray):
        return np.zeros(shape, dtype)  # its pages are committed when written
    array[...] = np.zeros(shape, dtype)
    return array


def joined(parts: Sequence[Tensor], axis: int, empty: Allocate) -> Tensor:
    """Concatenate arrays where they live.

    Args:
        parts: Of one type, and of one shape but for `axis`; some on the host, some not.
        axis: To join along, 0 or 1.
        empty: Reserves the result, if any of the parts is on a device.
    """
    if all(isinstance(part, np.ndarray) for part in parts):
        return np.concatenate(parts, axis)
    shape = list(parts[0].shape)
    shape[axis] = sum(part.shape[axis] for part in parts)
    whole, start = empty(shape, parts[0].dtype), 0
    for part in parts:
        stop = start + part.shape[axis]
        whole[(slice(None),) * axis + (slice(start, stop),)] = part
        start = stop
    return whole


def _tight_strides(shape: Sequence[int], itemsize: int) -> tuple[int, ...]:
    """Bytes from one value to the next along each axis, without gaps."""
    sizes = itertools.accumulate(reversed(shape[1:]), operator.mul, initial=itemsize)
    return tuple(reversed(list(sizes)))[-len(shape) :] if shape else ()
