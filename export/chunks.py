"""What a file is written from, in pieces that are never all in memory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from sparsevlm_trt.runtime.errors import ExportError

__all__ = ["CHUNK_BYTES", "Chunk", "buffers", "file_chunks"]

Chunk: TypeAlias = "bytes | bytearray | memoryview | npt.NDArray[Any]"
CHUNK_BYTES = 1 << 22  # hashed and written at once, so that the second finds it in the cache


def buffers(name: str, data: Chunk | Iterable[Chunk]) -> Iterator[memoryview]:
    """The bytes of one buffer, or of many, without copying any."""
    if isinstance(data, (bytes, bytearray, memoryview, np.ndarray)):
        yield _bytes_of(name, data)
        return
    for chunk in data:
        yield _bytes_of(name, chunk)


def _bytes_of(name: str, chunk: Chunk) -> memoryview:
    """The bytes of a buffer, in place."""
    if not isinstance(chunk, np.ndarray):
        return memoryview(chunk).cast("B") if len(chunk) else memoryview(b"")
    if not chunk.flags.c_contiguous:
        raise ExportError(
            f"weight {name} | strides {chunk.strides} | expected a contiguous array | "
            "give it row by row"
        )
    # As uint8, since bfloat16 has no buffer of its own.
    return chunk.reshape(-1).view(np.uint8).data if chunk.size else memoryview(b"")


def file_chunks(path: Path) -> Iterator[memoryview]:
    """The bytes of a file, in one buffer that is filled again and again."""
    buffer = memoryview(bytearray(CHUNK_BYTES))
    try:
        with path.open("rb", buffering=0) as file:
            while count := file.readinto(buffer):
                yield buffer[:count]
    except OSError as error:
        raise ExportError(
            f"{path} | cannot be read: {error.strerror} | expected a file | "
            "check the checkpoint's folder"
        ) from error
