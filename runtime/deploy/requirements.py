"""The packages that a deploy box needs, pinned to the versions that were tested together here."""

from __future__ import annotations

from importlib import metadata

from packaging.requirements import Requirement

from sparsevlm_trt.runtime.errors import InputError
from sparsevlm_trt.runtime.extras import DISTRIBUTION, pip_command

__all__ = ["pinned_requirements"]


def pinned_requirements(extra: str) -> list[str]:
    """List `NAME==VERSION` of everything that our base install and an extra need, sorted.

    Args:
        extra: One of our extras.

    Raises:
        InputError: One of them is not installed here, so that its version is unknown.
    """
    if extra not in (metadata.metadata(DISTRIBUTION).get_all("Provides-Extra") or ()):
        raise InputError(
            f"deploy | got {DISTRIBUTION} installed without the extra {extra!r} | expected the "
            f"metadata of this version | {pip_command(extra)}"
        )
    found: dict[str, str] = {}
    missing: set[str] = set()
    waiting = [(DISTRIBUTION, frozenset({extra, ""}))]
    seen = set(waiting)
    while waiting:
        name, extras = waiting.pop()
        for line in metadata.requires(name) or ():
            wanted = Requirement(line)
            marker = wanted.marker
            if marker is not None and not any(marker.evaluate({"extra": one}) for one in extras):
                continue
            try:
                found[wanted.name.lower().replace("_", "-")] = metadata.version(wanted.name)
            except metadata.PackageNotFoundError:
                missing.add(wanted.name)
                continue
            step = (wanted.name, frozenset(wanted.extras) | {""})
            if step not in seen:
                seen.add(step)
                waiting.append(step)
    if missing:
        raise InputError(
            f"deploy | got no installed {', '.join(sorted(missing))} | expected all packages of "
            f"the {extra} extra, to pin what was tested | {pip_command(extra)}"
        )
    return sorted(f"{name}=={_public(version)}" for name, version in found.items())


def _public(version: str) -> str:
    """Drop a local label, `1.2+cpu`: registries know the public version only."""
    return version.partition("+")[0]
