"""Where a bundle keeps the engines of one target: `engines/<target>/`, a plan and a record each.

A record names its plan, and a plan's name holds the hash of its content: writing the record is the
one act that makes a new engine the bundle's. Whatever is killed before it leaves the old engine.
"""

from __future__ import annotations

import fcntl
import os
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sparsevlm_trt.runtime.bundle import Bundle
from sparsevlm_trt.runtime.engines.record import EngineRecord, Machine
from sparsevlm_trt.runtime.errors import EngineError
from sparsevlm_trt.runtime.integrity import sha256_of

__all__ = ["ENGINES_FOLDER", "PARTIAL", "EngineFolder", "present_targets"]

ENGINES_FOLDER = "engines"
PARTIAL = ".partial"  # how files begin that are still being written
_PLAN, _RECORD = ".plan", ".json"
_LOCK = ".lock"


class EngineFolder:
    """The engines of one bundle for one target."""

    def __init__(self, bundle: Bundle, target: str) -> None:
        """Remember where; nothing is touched."""
        self.bundle, self.target = bundle, target
        self.path = bundle.path / ENGINES_FOLDER / target

    def command(self, graph: str | None = None, arguments: tuple[str, ...] = ()) -> str:
        """Spell the command that builds a graph's engine again, or all of them."""
        words = ["sparsevlm", "compile", str(self.bundle.path), "--target", self.target]
        words += ["--graph", graph] if graph else []
        return shlex.join([*words, *arguments])

    def graphs(self) -> list[str]:
        """Names that have a record here, of this bundle's graphs or not."""
        return sorted(path.stem for path in self.path.glob(f"*{_RECORD}"))

    def record(self, graph: str) -> EngineRecord | None:
        """Read a graph's record; None where there is none.

        Raises:
            EngineError: The file is not a record.
        """
        path = self.path / f"{graph}{_RECORD}"
        try:
            text = path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise EngineError(
                f"{path} | cannot be read: {error.strerror} | expected a record | mend it"
            ) from error
        return EngineRecord.from_text(text, str(path), self.command(graph))

    def plan_path(self, record: EngineRecord) -> Path:
        """The plan that a record names."""
        return self.path / record.plan_file

    def problem(
        self, graph: str, record: EngineRecord, machine: Machine | None, *, hashes: bool = True
    ) -> str | None:
        """Say why an engine must not be used here, or None.

        Args:
            graph: The graph that it is to stand for.
            record: Its record.
            machine: The library and the GPU at hand; None to leave them out of it.
            hashes: Also read the plan and compare its hash.
        """
        spec = self.bundle.manifest.graphs.get(graph)
        if spec is None:
            return "its graph is not in the bundle | expected a graph of bundle.json"
        if record.graph != graph:
            return f"its record is of graph {record.graph} | expected {graph}"
        if record.spec.graph_sha256 != spec.sha256:
            return (
                f"built from graph {record.spec.graph_sha256[:12]}... | expected "
                f"{spec.sha256[:12]}..., the bundle's"
            )
        if machine is not None:
            problem = _machine_problem(record.spec.machine, machine)
            if problem is not None:
                return problem
        return self._plan_problem(record, hashes)

    def _plan_problem(self, record: EngineRecord, hashes: bool) -> str | None:
        if record.plan_file != plan_name(record.graph, record.plan_sha256):
            return f"its record names {record.plan_file!r} | expected its own plan"
        path = self.plan_path(record)
        try:
            size = path.stat().st_size
            if size != record.plan_bytes:
                return f"plan of {size} bytes | expected {record.plan_bytes}"
            got = sha256_of(path) if hashes else record.plan_sha256
        except FileNotFoundError:
            return f"plan {record.plan_file} missing | expected {record.plan_bytes} bytes"
        except OSError as error:
            return f"plan cannot be read: {error.strerror} | expected a readable file"
        if got != record.plan_sha256:
            return f"plan altered: {got[:12]}... | expected {record.plan_sha256[:12]}..."
        return None

    def usable(self, graph: str, machine: Machine, *, hashes: bool = True) -> EngineRecord:
        """Return the record of an engine that may be loaded.

        Raises:
            EngineError: There is none, or it does not fit; the sentence ends in the command that
                builds it.
        """
        record = self.record(graph)
        if record is None:
            raise EngineError(
                f"engine {graph} | not built for {self.target} | expected one in {self.path} | "
                f"{self.command()}"
            )
        problem = self.problem(graph, record, machine, hashes=hashes)
        if problem is not None:
            command = self.command(graph, record.arguments)
            raise EngineError(f"engine {graph} | {problem} | {command}")
        return record

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Hold the folder for one writer, and clear what a killed one left.

        Raises:
            EngineError: The folder cannot be written, or another process is at it.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            lock = (self.path / _LOCK).open("w")
        except OSError as error:
            raise EngineError(
                f"{self.path} | cannot be written: {error.strerror} | expected a folder to keep "
                "engines in | mend its permissions, or compile a copy of the bundle"
            ) from error
        with lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                raise EngineError(
                    f"{self.path} | another compile is at work | expected one at a time | wait "
                    "for it to end"
                ) from error
            for left in self.path.glob(f"{PARTIAL}*"):
                left.unlink(missing_ok=True)
            yield

    def partial(self, graph: str) -> Path:
        """Where to build a plan before it is published."""
        return self.path / f"{PARTIAL}-{graph}{_PLAN}"

    def publish(self, record: EngineRecord, plan: Path) -> None:
        """Make a plan the bundle's, in one step.

        Args:
            record: Its record.
            plan: The finished file, on the same file system; it is moved.
        """
        plan.replace(self.plan_path(record))
        plan.unlink(missing_ok=True)  # still there if both names were links of one file
        text = self.path / f"{PARTIAL}-{record.graph}{_RECORD}"
        with text.open("w", encoding="ascii") as file:
            file.write(record.to_text())
            file.flush()
            os.fsync(file.fileno())
        text.replace(self.path / f"{record.graph}{_RECORD}")
        for old in self.path.glob(f"{record.graph}-*{_PLAN}"):
            if old.name != record.plan_file and _is_plan_of(old.name, record.graph):
                old.unlink(missing_ok=True)

    def unclaimed(self) -> list[Path]:
        """Files that belong to no graph of this bundle, or that no record names."""
        keep = {_LOCK}
        for graph in self.graphs():
            if graph not in self.bundle.manifest.graphs:
                continue
            try:
                record = self.record(graph)
            except EngineError:
                continue
            if record is not None:
                keep |= {f"{graph}{_RECORD}", record.plan_file}
        if not self.path.is_dir():
            return []
        return sorted(path for path in self.path.iterdir() if path.name not in keep)


def plan_name(graph: str, plan_sha256: str) -> str:
    """Name a plan by its graph and content."""
    return f"{graph}-{plan_sha256[:16]}{_PLAN}"


def present_targets(bundle: Bundle) -> list[str]:
    """Targets that the bundle holds engines for."""
    root = bundle.path / ENGINES_FOLDER
    return sorted(path.name for path in root.iterdir() if path.is_dir()) if root.is_dir() else []


def _is_plan_of(name: str, graph: str) -> bool:
    """Whether a plan is of this graph, not of one whose name begins like it."""
    return len(name) == len(plan_name(graph, "0" * 64)) and name.startswith(f"{graph}-")


def _machine_problem(built: Machine, here: Machine) -> str | None:
    if built.target != here.target:
        return f"built for {built.target} | expected {here.target}"
    if built.version != here.version:
        return f"built by version {built.version} | expected {here.version}, which is installed"
    if built.gpu != here.gpu and built.gpu:
        return f"built on {built.gpu} | expected {here.gpu or 'the GPU at hand'}"
    missing = [one for one in here.capabilities if one not in built.capabilities]
    if built.capabilities and missing:
        return (
            f"built for compute capability {', '.join(built.capabilities)} | expected "
            f"{', '.join(here.capabilities)}"
        )
    return None
