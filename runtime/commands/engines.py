"""`sparsevlm engines`: the engines that a bundle holds, whether they fit, and removing those."""

from __future__ import annotations

from pathlib import Path

import click

from sparsevlm_trt.runtime.bundle import Bundle
from sparsevlm_trt.runtime.commands.options import debug_option, json_option
from sparsevlm_trt.runtime.console import print_json
from sparsevlm_trt.runtime.engines.cache import EngineCache, default_cache_folder
from sparsevlm_trt.runtime.engines.folder import present_targets
from sparsevlm_trt.runtime.engines.inventory import Entry, prune_engines, read_engines
from sparsevlm_trt.runtime.engines.record import Machine
from sparsevlm_trt.runtime.errors import EngineError
from sparsevlm_trt.runtime.problems import told_at_once
from sparsevlm_trt.runtime.table import format_table
from sparsevlm_trt.runtime.tensorrt.library import TARGETS, load_library
from sparsevlm_trt.runtime.units import spell_bytes, spell_ms

__all__ = ["engines"]

_bundle = click.argument("path", metavar="BUNDLE", type=click.Path(path_type=Path))
_target = click.option("--target", type=click.Choice(TARGETS), help="Only this one's.")


@click.group()
def engines() -> None:
    """Look after the TensorRT engines of a bundle."""


@engines.command("list")
@_bundle
@json_option
@debug_option
def list_engines(path: Path, *, as_json: bool) -> None:
    """List the engines of BUNDLE, without reading their plans."""
    entries = read_engines(Bundle.open(path, verify=False), hashes=False)
    if as_json:
        print_json({"bundle": path, "engines": entries})
    elif entries:
        click.echo(_table(entries))
    else:
        click.echo(f"No engines. Build them: sparsevlm compile {path} --target tensorrt-rtx")


@engines.command()
@_bundle
@_target
@json_option
@debug_option
def verify(path: Path, *, target: str | None, as_json: bool) -> None:
    """Check the engines of BUNDLE: plans by their hashes, graphs, library and GPU.

    A library that is not installed here is left out of it, and said.
    """
    bundle = Bundle.open(path, verify=False)
    targets = [target] if target else present_targets(bundle)
    machines, notes = _machines(targets)
    entries = read_engines(bundle, targets, machines, hashes=True)
    bad = [entry for entry in entries if entry.problem is not None]
    if as_json:
        print_json({"bundle": path, "engines": entries, "notes": notes, "sound": not bad})
        if bad:
            click.get_current_context().exit(1)
        return
    for note in notes:
        click.echo(note, err=True)
    if bad:
        told = [f"engine {one.graph} | {one.problem} | {one.command}" for one in bad]
        if len(told) == 1:
            raise EngineError(told[0])
        raise EngineError(told_at_once(f"{path}", told, "build them again"))
    click.echo(f"{len(entries)} engines are sound.")


@engines.command()
@_bundle
@_target
@click.option("--all", "everything", is_flag=True, help="Remove the sound ones as well.")
@click.option("--cache-gb", type=click.FloatRange(min=0), help="Shrink the shared cache to this.")
@click.option(
    "--cache",
    "cache_folder",
    type=click.Path(path_type=Path),
    help="Folder of engines shared by bundles.  [default: ~/.cache/sparsevlm/engines]",
)
@json_option
@debug_option
def prune(
    path: Path,
    *,
    target: str | None,
    everything: bool,
    cache_gb: float | None,
    cache_folder: Path | None,
    as_json: bool,
) -> None:
    """Remove engines that BUNDLE cannot use, and what stopped compiles left."""
    bundle = Bundle.open(path, verify=False)
    gone = [
        file
        for one in ([target] if target else present_targets(bundle))
        for file in prune_engines(bundle, one, everything=everything)
    ]
    cache_bytes = 0
    if cache_gb is not None:
        cache = EngineCache(cache_folder or default_cache_folder())
        cache_bytes = cache.shrink(round(cache_gb * 1e9))
    if as_json:
        print_json({"removed": dict(gone), "cache_bytes": cache_bytes})
        return
    for name, size in gone:
        click.echo(f"removed {name} ({spell_bytes(size)})")
    told = f", {spell_bytes(cache_bytes)} of the cache" if cache_gb is not None else ""
    click.echo(f"{len(gone)} files, {spell_bytes(sum(size for _, size in gone))}{told}.")


def _machines(targets: list[str]) -> tuple[dict[str, Machine], list[str]]:
    """What the engines must fit here, as far as the libraries are installed."""
    found = {target: _machine(target) for target in targets}
    machines = {target: one for target, one in found.items() if isinstance(one, Machine)}
    reasons = [one for one in found.values() if isinstance(one, str)]
    return machines, [f"Library and GPU are left out: {reason}" for reason in reasons]


def _machine(target: str) -> Machine | str:
    try:
        return load_library(target).here()
    except EngineError as error:
        return str(error)


def _table(entries: list[Entry]) -> str:
    rows = []
    for entry in entries:
        record = entry.record
        cells: list[object] = [entry.target, entry.graph]
        if record is None:
            cells += [None] * 6
        else:
            machine = record.spec.machine
            bound = machine.gpu or ",".join(machine.capabilities) or "any since Ampere"
            cells += [
                machine.version,
                bound,
                len(record.spec.profiles),
                spell_bytes(record.plan_bytes),
                spell_bytes(record.activation_bytes),
                spell_ms(record.build_ms),
            ]
        rows.append([*cells, entry.problem or "ok"])
    header = ["target", "graph", "version", "GPU", "profiles", "plan", "activations", "built in"]
    return format_table([*header, "state"], rows)
