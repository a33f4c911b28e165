"""The engines of a bundle, of all targets: what they are and whether they may be used."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from sparsevlm_trt.runtime.bundle import Bundle
from sparsevlm_trt.runtime.engines.folder import EngineFolder, present_targets
from sparsevlm_trt.runtime.engines.record import EngineRecord, Machine
from sparsevlm_trt.runtime.errors import EngineError

__all__ = ["Entry", "prune_engines", "read_engines"]


@dataclass(frozen=True, slots=True)
class Entry:
    """One engine of a bundle.

    Attributes:
        target: The target it lies under.
        graph: The graph it is named by.
        record: Its record; None where that cannot be read.
        problem: Why it must not be used; None where it may.
        command: Builds it again.
    """

    target: str
    graph: str
    record: EngineRecord | None
    problem: str | None
    command: str


def read_engines(
    bundle: Bundle,
    targets: Iterable[str] | None = None,
    machines: dict[str, Machine] | None = None,
    *,
    hashes: bool,
) -> list[Entry]:
    """Read every record, and say what is wrong with which.

    Args:
        bundle: The bundle.
        targets: Those to read; None: all that are there.
        machines: What an engine must fit, by target; where one is missing, any library will do.
        hashes: Also read the plans and compare their hashes.
    """
    entries = []
    for target in present_targets(bundle) if targets is None else targets:
        folder = EngineFolder(bundle, target)
        machine = (machines or {}).get(target)
        entries += [_entry(folder, graph, machine, hashes) for graph in folder.graphs()]
    return entries


def prune_engines(
    bundle: Bundle, target: str, *, everything: bool = False
) -> list[tuple[str, int]]:
    """Remove what no graph of the bundle can use: foreign engines, damaged ones, left-over files.

    Args:
        bundle: The bundle.
        target: Whose engines.
        everything: Remove the sound ones as well.

    Returns:
        Names and bytes of the files that went.

    Raises:
        EngineError: The folder cannot be written, or a compile is at work in it.
    """
    folder = EngineFolder(bundle, target)
    gone: list[tuple[str, int]] = []
    with folder.writing():
        for entry in read_engines(bundle, [target], hashes=True):
            if everything or entry.problem is not None:
                # The record first: a plan without one is nobody's engine.
                _remove(folder.path / f"{entry.graph}.json", gone)
        for path in folder.unclaimed():
            _remove(path, gone)
    return gone


def _entry(folder: EngineFolder, graph: str, machine: Machine | None, hashes: bool) -> Entry:
    record, arguments = None, tuple[str, ...]()
    try:
        record = folder.record(graph)
        assert record is not None
        problem = folder.problem(graph, record, machine, hashes=hashes)
        arguments = record.arguments
    except EngineError as error:
        problem = str(error).partition(" | ")[2].rpartition(" | ")[0]
    known = graph if graph in folder.bundle.manifest.graphs else None
    command = folder.command(known, arguments)
    return Entry(folder.target, graph, record, problem, command)


def _remove(path: Path, gone: list[tuple[str, int]]) -> None:
    size = path.stat().st_size
    path.unlink()
    gone.append((path.name, size))
