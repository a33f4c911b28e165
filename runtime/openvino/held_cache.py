"""The keys and values of one prompt and stage, kept inside a request of the engine."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparsevlm_trt.runtime.openvino.compiler import CompiledGraph
from sparsevlm_trt.runtime.openvino.request import infer
from sparsevlm_trt.runtime.runner import Array

__all__ = ["OpenVinoCache"]

_BYTES = {"f32": 4, "bf16": 2, "f16": 2}


class OpenVinoCache:
    """A cache that its stage appends to; see `kv_cache.HeldCache`."""

    def __init__(
        self,
        compiled: CompiledGraph,
        num_layers: int,
        batch: int,
        capacity: int,
        width: int,
    ) -> None:
        """Take a request of the graph for as long as this cache lives.

        Args:
            compiled: A stage that holds its cache.
            num_layers: Its layers.
            batch: Rows, B.
            capacity: Entries that may be kept.
            width: Values of one entry, G*D.
        """
        self.length, self.capacity = 0, capacity
        self._compiled = compiled
        self._beam = np.arange(batch, dtype=np.int32)
        self._entry_bytes = 2 * num_layers * batch * width * _BYTES[compiled.precision]
        self._request = compiled.take_request()
        self._request.reset_state()

    def run(self, inputs: Mapping[str, Any], into: Mapping[str, Any]) -> None:
        """Run the stage on new tokens and keep their keys and values.

        Args:
            inputs: The stage's inputs without the past.
            into: Where its outputs without the new entries go.

        Raises:
            ValueError: The new entries do not fit.
            RunnerError: The engine failed.
        """
        count = inputs["hidden_states"].shape[1]
        if self.length + count > self.capacity:
            raise ValueError(
                f"cache | got {count} entries behind {self.length} | expected {self.capacity} "
                "in all at most | reserve more"
            )
        more = {"beam_idx": self._beam, "num_past": np.array([self.length], np.int64)}
        infer(self._compiled, self._request, {**inputs, **more}, into)
        self.length += count

    def views(self) -> dict[str, Array]:
        """Return copies of the used entries; see `kv_cache.HeldCache`."""
        entries = {state.name: np.array(state.state.data) for state in self._request.query_state()}
        return {
            f"past_key_values.{name}": array.reshape(*array.shape[:2], -1)
            for name, array in entries.items()
        }

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Entries used of each row, `[B]`."""
        return np.full(len(self._beam), self.length, np.int64)

    @property
    def entry_bytes(self) -> int:
        """Bytes of one entry of one row: a key and a value of each layer."""
        return self._entry_bytes // len(self._beam)

    @property
    def nbytes(self) -> int:
        """Bytes of the used entries."""
        return self.length * self._entry_bytes

    def __del__(self) -> None:
        """Give the request back, and with it the memory of the entries."""
        request = getattr(self, "_request", None)
        if request is not None:
            self._compiled.give_back(request)
