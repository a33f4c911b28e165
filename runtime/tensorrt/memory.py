"""The runner's memory on the device: one block, given away in places."""

from __future__ import annotations

import threading
from dataclasses import dataclass

from sparsevlm_trt.runtime.device_array import Copy
from sparsevlm_trt.runtime.tensorrt.arena import Arena, Place, aligned
from sparsevlm_trt.runtime.tensorrt.device import Device

__all__ = ["DeviceMemory", "Holding"]


class DeviceMemory:
    """A block of device memory of a planned size; a request that outgrows it gets memory apart.

    Arrays may end in any thread, so the books are kept under a lock. Freed memory is given away
    at once: all work is one stream's.

    Attributes:
        spilled_bytes: Memory that did not fit in the block, now.
    """

    def __init__(self, device: Device, size_bytes: int) -> None:
        """Reserve the block.

        Args:
            device: The GPU.
            size_bytes: Its size, of `request_bytes.forecast_bytes`.

        Raises:
            RunnerError: The GPU has not so much left.
        """
        self.device = device
        self.spilled_bytes = 0
        self._arena = Arena(aligned(size_bytes))
        self._base = device.allocate(self._arena.size_bytes)
        self._lock = threading.Lock()
        self._open = True

    @property
    def copy(self) -> Copy:
        """Copies from, to and within it."""
        return self.device.copy

    @property
    def peak_bytes(self) -> int:
        """The highest byte of the block that was ever taken."""
        return self._arena.peak_bytes

    def allocate(self, size_bytes: int) -> tuple[int, Holding]:
        """Reserve bytes; see `device_array.Memory`."""
        with self._lock:
            place = self._arena.take(size_bytes)
            if place is None:
                self.spilled_bytes += aligned(size_bytes)
        if place is None:
            holding = self.reserve(size_bytes)
            holding.is_spilled = True
        else:
            holding = Holding(self, self._base + place.offset, size_bytes, place)
        return holding.address, holding

    def reserve(self, size_bytes: int) -> Holding:
        """Reserve memory apart from the block, for what outlives requests.

        In the block it would stand in their way: equal requests would get other addresses.
        """
        return Holding(self, self.device.allocate(aligned(size_bytes)), size_bytes, None)

    def give_back(self, holding: Holding) -> None:
        """Free what a holding held."""
        with self._lock:
            if not self._open:
                return
            if holding.place is not None:
                self._arena.give_back(holding.place)
                return
            if holding.is_spilled:
                self.spilled_bytes -= aligned(holding.size_bytes)
        self.device.synchronize()  # memory apart goes back to CUDA, which asks no stream
        self.device.free(holding.address)

    def close(self) -> None:
        """Free the block."""
        with self._lock:
            if self._open:
                self._open = False
                self.device.free(self._base)


@dataclass(slots=True, eq=False)
class Holding:
    """Device memory that is freed when nothing refers to it any more.

    Attributes:
        memory: Whose it is.
        address: Of its first byte.
        size_bytes: As asked for.
        place: In the block; None for memory apart.
        clean_from: The byte from which on all are zero; None where nothing is known.
        is_spilled: Whether the block was full.
    """

    memory: DeviceMemory
    address: int
    size_bytes: int
    place: Place | None
    clean_from: int | None = None
    is_spilled: bool = False

    def __del__(self) -> None:
        """Give the memory back."""
        self.memory.give_back(self)
