"""Engines by what they were built from, shared by all bundles of a user."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path

from sparsevlm_trt.runtime.engines.folder import PARTIAL, plan_name
from sparsevlm_trt.runtime.engines.record import EngineRecord, EngineSpec
from sparsevlm_trt.runtime.errors import EngineError
from sparsevlm_trt.runtime.integrity import sha256_of

__all__ = ["DEFAULT_CACHE_BYTES", "EngineCache", "default_cache_folder", "link_file"]

DEFAULT_CACHE_BYTES = 30_000_000_000  # two 7B models


def default_cache_folder() -> Path:
    """The user's: `$XDG_CACHE_HOME/sparsevlm/engines`, or below `~/.cache`."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "sparsevlm" / "engines"


class EngineCache:
    """A folder of plans and records named by `EngineSpec.key`, bounded in size.

    A plan is a hard link where the file system allows it, so that a bundle's engine and its cached
    twin take their room once. What was used longest ago goes first.
    """

    def __init__(self, path: Path, max_bytes: int = DEFAULT_CACHE_BYTES) -> None:
        """Remember where, and how much may lie there."""
        self.path, self.max_bytes = path, max_bytes

    def take(self, spec: EngineSpec, graph: str, place: Path) -> EngineRecord | None:
        """Put a cached plan at `place`.

        Returns:
            Its record under the name of `graph`; None where there is none, or a damaged one, which
            is dropped.
        """
        plan, text = self._paths(spec.key)
        try:
            record = EngineRecord.from_text(text.read_bytes(), str(text), "build it again")
            is_whole = record.spec == spec and sha256_of(plan) == record.plan_sha256
        except FileNotFoundError:
            return None
        except (EngineError, OSError):
            is_whole = False
        if not is_whole:
            text.unlink(missing_ok=True)
            plan.unlink(missing_ok=True)
            return None
        link_file(plan, place)
        os.utime(text)
        return replace(record, graph=graph, plan_file=plan_name(graph, record.plan_sha256))

    def put(self, record: EngineRecord, plan: Path) -> None:
        """Remember a finished plan; a full disk or an unwritable cache is no error."""
        target, text = self._paths(record.spec.key)
        parts = [self.path / f"{PARTIAL}-{os.getpid()}{end}" for end in (".plan", ".json")]
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            link_file(plan, parts[0])
            parts[0].replace(target)
            parts[1].write_text(record.to_text(), encoding="ascii")
            parts[1].replace(text)
            self.shrink()
        except OSError:
            pass
        for part in parts:  # a rename onto another link of the same file leaves both names
            part.unlink(missing_ok=True)

    def size_bytes(self) -> int:
        """Bytes of all plans."""
        return sum(path.stat().st_size for path in self.path.glob("*.plan"))

    def shrink(self, max_bytes: int | None = None) -> int:
        """Drop what was used longest ago until the rest fits.

        Returns:
            Bytes that went.
        """
        bound = self.max_bytes if max_bytes is None else max_bytes
        left = self.size_bytes()
        gone = 0
        for text in sorted(self.path.glob("*.json"), key=lambda path: path.stat().st_mtime):
            if left - gone <= bound:
                break
            plan = text.with_suffix(".plan")
            gone += plan.stat().st_size if plan.exists() else 0
            text.unlink(missing_ok=True)  # first: a plan without a record is never taken
            plan.unlink(missing_ok=True)
        for plan in self.path.glob("*.plan"):
            if not plan.with_suffix(".json").exists():
                plan.unlink(missing_ok=True)
        return gone

    def _paths(self, key: str) -> tuple[Path, Path]:
        return self.path / f"{key}.plan", self.path / f"{key}.json"


def link_file(source: Path, place: Path) -> None:
    """Link a file, or copy it to another file system."""
    place.unlink(missing_ok=True)
    try:
        os.link(source, place)
    except OSError:
        shutil.copyfile(source, place)
