"""One stage's decode step with shapes that never change, recorded once and launched again.

A cache grows by an entry a step, so its used part never has the same shape twice. Here the stage
is given the whole cache, and `past_lengths` hides what is not used yet; the new entries land in a
fixed place and are copied behind the others. All addresses then stay the same for a request, and
the stage's kernels are launched as one CUDA graph.
"""

from __future__ import annotations

import itertools
import math
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from sparsevlm_trt.runtime.device_array import DeviceArray, Tensor
from sparsevlm_trt.runtime.engines.profiles import Profile
from sparsevlm_trt.runtime.errors import RunnerError
from sparsevlm_trt.runtime.tensorrt.arena import aligned
from sparsevlm_trt.runtime.tensorrt.engine import Engine
from sparsevlm_trt.runtime.tensorrt.memory import DeviceMemory, Holding

__all__ = ["DecodeStep", "spacing"]

_PAST, _NEW = "past_key_values.", "new_key_values."
_RECORDINGS = 8  # kept for each stage: requests of other lengths have their caches elsewhere
_LARGEST_PITCH = (1 << 31) - 1  # of a two-dimensional copy


class DecodeStep:
    """The decode step of one stage, for one sequence."""

    def __init__(
        self, engine: Engine, profile: int, ranges: Profile, memory: DeviceMemory
    ) -> None:
        """Make a context of its own, and the fixed places.

        Args:
            engine: The stage's.
            profile: The profile that decode steps run under.
            ranges: Its shapes.
            memory: Of the runner.
        """
        self._engine, self._memory, self._device = engine, memory, memory.device
        self._context = engine.context(profile, memory.device.stream)
        self._ranges = ranges
        self._past = [name for name in engine.inputs if name.startswith(_PAST)]
        self._fixed: dict[str, DeviceArray] = {}
        self._scratch: Holding | None = None
        self._recorded: OrderedDict[tuple[int, ...], Any] = OrderedDict()
        self.is_usable = bool(self._past)

    def fits(self, inputs: Mapping[str, Tensor], into: Mapping[str, Tensor]) -> bool:
        """Whether a call is a decode step of one sequence whose caches are ours, whole."""
        hidden = inputs.get("hidden_states")
        if not self.is_usable or hidden is None or hidden.shape[:2] != (1, 1):
            return False
        names = [_NEW + name.removeprefix(_PAST) for name in self._past]
        if any(name not in into for name in (*names, "last_hidden_state")):
            return False
        return all(self._has_room(inputs[name], name) for name in self._past)

    def _has_room(self, past: Tensor, name: str) -> bool:
        holding = past.owner if isinstance(past, DeviceArray) else None
        if not isinstance(holding, Holding) or past.shape[1] == 0:
            return False
        capacity = holding.size_bytes // _entry_bytes(past)
        starts_there = isinstance(past, DeviceArray) and past.pointer == holding.address
        return starts_there and past.shape[1] < capacity <= self._ranges[name].max[1]

    def run(self, inputs: Mapping[str, Tensor], into: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Run a call that fits; see `Runner.run`."""
        pasts = [past for name in self._past if isinstance(past := inputs[name], DeviceArray)]
        self._hide_unused(pasts)
        self._fill(inputs)
        key = tuple(past.pointer for past in pasts)
        recorded = self._recorded.pop(key, None)
        if recorded is None:
            recorded = self._record(pasts)
        else:
            self._device.launch(recorded)
        if recorded is not None:
            self._recorded[key] = recorded
            while len(self._recorded) > _RECORDINGS:
                self._recorded.popitem(last=False)
        return self._hand_over(into)

    def _hide_unused(self, pasts: Sequence[DeviceArray]) -> None:
        """Zero what a cache does not use yet: masked, it must still be a number (0 x NaN)."""
        for past in pasts:
            holding = past.owner
            assert isinstance(holding, Holding)
            if holding.clean_from is None:
                holding.clean_from = past.nbytes
                rest = holding.size_bytes - past.nbytes
                self._device.fill_zero(holding.address + past.nbytes, rest)

    def _fill(self, inputs: Mapping[str, Tensor]) -> None:
        """Copy the row and its position to where the recording reads them."""
        for name, io in self._engine.inputs.items():
            if name.startswith(_PAST):
                continue
            array = inputs[name]
            if array.nbytes:
                self._fix(name, array.shape, io.dtype)[...] = array
            else:
                self._fix(name, array.shape, io.dtype)

    def _record(self, pasts: Sequence[DeviceArray]) -> Any | None:
        """Run once, then record the same work; None where it cannot be recorded."""
        self._bind(pasts)
        needed = self._context.scratch_bytes()
        if self._scratch is None or self._scratch.size_bytes < needed:
            self._recorded.clear()  # they hold the old address
            self._scratch = self._memory.reserve(needed)
        scratch, stream = (self._scratch.address, needed), self._device.stream
        # The library settles on the first run (allocations, compilation): nothing to be recorded.
        self._context.execute(*scratch, stream)
        try:
            self._device.begin_capture()
            self._context.execute(*scratch, stream)
            return self._device.end_capture()
        except RunnerError:  # an engine with host work in it: the plain way serves it
            self.is_usable = False
            return None

    def _bind(self, pasts: Sequence[DeviceArray]) -> None:
        context = self._context
        for name, past in zip(self._past, pasts, strict=True):
            holding = past.owner
            assert isinstance(holding, Holding)
            capacity = holding.size_bytes // _entry_bytes(past)
            context.bind(name, past.pointer, (1, capacity, past.shape[2]))
        for name in self._engine.inputs:
            if name not in self._past:
                context.bind(name, self._fixed[name].pointer, self._fixed[name].shape)
        for name, io in self._engine.outputs.items():
            if name.startswith(_NEW):
                continue
            fixed = self._fix(name, context.output_shape(name), io.dtype)
            context.bind(name, fixed.pointer)
        new = self._new_rows(pasts)
        for index, name in enumerate(self._past):
            pitch = aligned(_entry_bytes(pasts[0]))
            context.bind(_NEW + name.removeprefix(_PAST), new.pointer + index * pitch)

    def _new_rows(self, pasts: Sequence[DeviceArray]) -> DeviceArray:
        """Where the new entries land, a row for each cache."""
        pitch = aligned(_entry_bytes(pasts[0]))
        return self._fix(_NEW, (len(self._past), pitch), np.uint8)

    def _fix(self, name: str, shape: Sequence[int], dtype: DTypeLike) -> DeviceArray:
        """The place of a tensor that recordings hold the address of."""
        if name not in self._fixed:
            size_bytes = math.prod(shape) * np.dtype(dtype).itemsize
            holding = self._memory.reserve(size_bytes)
            self._fixed[name] = DeviceArray(self._memory, holding.address, shape, dtype, holding)
        return self._fixed[name]

    def _hand_over(self, into: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Copy the results to where the caller wants them."""
        outputs: dict[str, Tensor] = {}
        places = [into[_NEW + name.removeprefix(_PAST)] for name in self._past]
        pointers = [place.pointer for place in places if isinstance(place, DeviceArray)]
        rows, width = self._fixed[_NEW], places[0].nbytes
        pitch = rows.shape[1]
        step = spacing(pointers)
        if step is not None and width <= step <= _LARGEST_PITCH:
            lines = ((pointers[0], step), (rows.pointer, pitch))
            self._device.copy("within", *lines, rows=len(pointers), width=width)
        else:
            for index, pointer in enumerate(pointers):
                lines = ((pointer, width), (rows.pointer + index * pitch, width))
                self._device.copy("within", *lines, rows=1, width=width)
        for name in self._engine.outputs:
            place = into.get(name)
            if place is None:
                outputs[name] = self._fixed[name]
                continue
            if not name.startswith(_NEW) and place.nbytes:
                place[...] = self._fixed[name]
            outputs[name] = place
        return outputs


def spacing(addresses: Sequence[int]) -> int | None:
    """The bytes between addresses that are evenly spaced and ascend; None where they are not."""
    steps = {after - before for before, after in itertools.pairwise(addresses)}
    return steps.pop() if len(steps) == 1 and min(steps) > 0 else None


def _entry_bytes(past: Tensor) -> int:
    return int(past.shape[2]) * int(past.dtype.itemsize)
