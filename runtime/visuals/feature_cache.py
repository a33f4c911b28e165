"""What the vision graph made of the latest images: the next question about one is cheap."""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from sparsevlm_trt.runtime.device_array import Tensor

if TYPE_CHECKING:  # its module imports Pillow
    from sparsevlm_trt.runtime.visuals.visual import Visual

__all__ = ["FeatureCache", "Features"]


@dataclass(frozen=True, slots=True, eq=False)
class Features:
    """The tokens of one image or video.

    Attributes:
        tokens: `[1, n, N]` each, in order.
        deepstack: What the first layers add to them, `[1, n, k*N]` each; empty where the tower
            feeds no layer.
    """

    tokens: tuple[Tensor, ...]
    deepstack: tuple[Tensor, ...] = ()


class FeatureCache:
    """Keeps features by what the vision graph would read, the latest used within a bound.

    Features depend on the image alone, not on the question: all of them come before pruning.
    Threads may share it. Those that an engine keeps on a device are not taken: it may reuse their
    memory.
    """

    def __init__(self, max_bytes: int) -> None:
        """Hold at most so many bytes of features; 0 holds nothing."""
        self._max_bytes, self._size = max_bytes, 0
        self._kept: OrderedDict[str, Features] = OrderedDict()
        self._lock = threading.Lock()

    def key(self, visual: Visual) -> str:
        """Name what a visual would give: a hash of its pixels and of how it is laid out."""
        if not self._max_bytes:
            return ""
        told = hashlib.sha256(
            repr((visual.graph, visual.kind, visual.size, visual.grid, visual.cells)).encode()
        )
        for name, values in sorted(visual.inputs.items()):
            told.update(f"{name} {values.dtype} {values.shape}".encode())
            told.update(np.ascontiguousarray(values).data)
        return told.hexdigest()

    def find(self, key: str) -> Features | None:
        """Return the features of that name, if they are here."""
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
            return self._kept.get(key)

    def keep(self, key: str, features: Features) -> None:
        """Take features in; the longest unused make room."""
        parts = (*features.tokens, *features.deepstack)
        arrays = [part for part in parts if isinstance(part, np.ndarray)]
        size = sum(part.nbytes for part in arrays)
        if len(arrays) < len(parts) or size > self._max_bytes:
            return
        count = len(features.tokens)
        # Copies: a slice would hold the arrays of all images that were seen together.
        copies = tuple(part.copy() for part in arrays)
        with self._lock:
            if key in self._kept:
                return
            self._kept[key] = Features(copies[:count], copies[count:])
            self._size += size
            while self._size > self._max_bytes:
                _, gone = self._kept.popitem(last=False)
                self._size -= sum(part.nbytes for part in (*gone.tokens, *gone.deepstack))
