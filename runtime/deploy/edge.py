"""A folder that a box without compiler and without network can serve from."""

from __future__ import annotations

import shutil
from importlib import metadata
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path

from sparsevlm_trt.runtime.bundle import Bundle
from sparsevlm_trt.runtime.deploy.folder import copy_bundle, new_folder, write_text
from sparsevlm_trt.runtime.deploy.requirements import pinned_requirements
from sparsevlm_trt.runtime.extras import DISTRIBUTION

__all__ = ["write_edge_folder"]

_TEMPLATES = ("README.md", "fetch-wheels.sh", "install.sh", "start.sh", "sparsevlm.service")
_DOCKERFILES = ("Dockerfile.cpu", "Dockerfile.cuda", "Dockerfile.jetson")


def write_edge_folder(bundle: Path, out: Path, *, options: str = "") -> Path:
    """Pack a bundle, our code and the list of wheels into one folder.

    Args:
        bundle: A bundle; verified first.
        out: The folder; must not exist.
        options: What `start.sh` adds to `sparsevlm serve`.

    Returns:
        `out`.

    Raises:
        BundleError: The bundle is missing, incomplete or altered.
        InputError: `out` exists or cannot be written, or a package of the serve extra is missing.
    """
    opened = Bundle.open(bundle)
    pinned = pinned_requirements("serve")
    with new_folder(out) as draft:
        copy_bundle(opened, draft / "bundle")
        write_text(draft / "requirements.txt", "\n".join(pinned) + "\n")
        _copy_code(draft / "app")
        templates = files("sparsevlm_trt.runtime.deploy") / "edge_files"
        for name in (*_TEMPLATES, *_DOCKERFILES):
            text = (templates / f"{name}.in").read_text(encoding="utf-8")
            script = name.endswith(".sh")
            write_text(draft / name, text.replace("@OPTIONS@", options), executable=script)
    return out


def _copy_code(target: Path) -> None:
    """Copy the rooms that serving needs, and the metadata that names version and requirements."""
    unwanted = shutil.ignore_patterns("__pycache__")
    for room in ("sparsevlm_trt.runtime", "sparsevlm_ops"):
        found = find_spec(room)  # not imported: the second one would bring PyTorch
        assert found is not None
        assert found.origin is not None
        place = target.joinpath(*room.split("."))
        shutil.copytree(Path(found.origin).parent, place, ignore=unwanted)
    ours = metadata.distribution(DISTRIBUTION)
    info = target / f"{DISTRIBUTION.replace('-', '_')}-{ours.version}.dist-info"
    write_text(info / "METADATA", ours.read_text("METADATA") or "")
