"""Rewritten graphs on disk, so that the next start maps them instead of rewriting them again.

What is kept is OpenVINO's own form of a graph (`graph.xml`, `graph.bin`) after rewriting and
narrowing. Compiled blobs would save the rest of the compilation, but OpenVINO 2026.4 imports them
with wrong rotary embeddings. An entry is named by the hash of all it depends on, appears whole or
not at all, and the longest unused ones give way when the folder grows over its bound.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

__all__ = ["GRAPH_NAME", "GraphCache", "default_folder"]

_MAX_BYTES = 8_000_000_000
_PARTIAL = ".partial-"
GRAPH_NAME = "graph.xml"


def default_folder() -> Path:
    """Where graphs go: the user's cache folder, as the XDG rules name it."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "sparsevlm-trt" / "openvino"


class GraphCache:
    """Graphs in one folder; several processes may share it."""

    def __init__(self, folder: Path, max_bytes: int = _MAX_BYTES) -> None:
        """Use a folder, which is made when first written to.

        Args:
            folder: Where the graphs are.
            max_bytes: Bound of all of them together.
        """
        self.folder, self.max_bytes = folder, max_bytes

    @staticmethod
    def key(facts: Mapping[str, Any]) -> str:
        """Hash all that a graph depends on."""
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()

    def find(self, key: str) -> Path | None:
        """Return a graph's file, or None where there is none."""
        entry = self.folder / key
        try:
            # The time of its last use decides what gives way.
            os.utime(entry, ns=(time.time_ns(), time.time_ns()))
        except OSError:
            return None
        return entry / GRAPH_NAME

    def discard(self, key: str) -> None:
        """Remove a graph that the engine refused."""
        shutil.rmtree(self.folder / key, ignore_errors=True)

    def store(self, key: str, write: Callable[[Path], None]) -> Path | None:
        """Add a graph, and drop the longest unused ones over the bound.

        Args:
            key: Its name.
            write: Writes it to the path that it is given, and weights beside it.

        Returns:
            Its file; None where it could not be written: a full or read-only disk costs the next
            start some time, nothing more.
        """
        partial = None
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            partial = Path(tempfile.mkdtemp(prefix=_PARTIAL, dir=self.folder))
            write(partial / GRAPH_NAME)
            partial.rename(self.folder / key)
        except (OSError, RuntimeError):  # the engine reports a full disk as the latter
            if partial is not None:
                shutil.rmtree(partial, ignore_errors=True)
            return self.find(key)  # another process may have been faster
        self._trim(key)
        return self.find(key)

    def _trim(self, newest: str) -> None:
        """Keep the bound; what another process has mapped stays readable for it."""
        entries = [
            (entry.name == newest, *_age_and_size(entry)) for entry in self.folder.iterdir()
        ]
        total = sum(size for _, _, size, _ in entries)
        for _, _, size, entry in sorted(entries):
            if total <= self.max_bytes:
                return
            if not entry.name.startswith(_PARTIAL):
                shutil.rmtree(entry, ignore_errors=True)
                total -= size


def _age_and_size(entry: Path) -> tuple[float, int, Path]:
    """Last use and bytes of an entry; nothing of one that another process just removed."""
    try:
        return entry.stat().st_mtime, sum(file.stat().st_size for file in entry.iterdir()), entry
    except OSError:
        return 0.0, 0, entry
