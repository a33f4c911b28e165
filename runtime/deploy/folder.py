"""A folder that is either whole or not there."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sparsevlm_trt.runtime.bundle import MANIFEST_NAME, Bundle, listed_files
from sparsevlm_trt.runtime.errors import InputError

__all__ = ["copy_bundle", "new_folder", "write_text"]


@contextmanager
def new_folder(out: Path) -> Iterator[Path]:
    """Give a folder to write in, which becomes `out` when nothing fails.

    Args:
        out: Where it will be; must not exist.

    Raises:
        InputError: Something is there already, or cannot be written.
    """
    if out.exists():
        raise InputError(
            f"deploy {out} | got a path that exists | expected a new one | remove it, or name "
            "another"
        )
    draft = out.parent / f".{out.name}.partial"
    shutil.rmtree(draft, ignore_errors=True)
    try:
        draft.mkdir(parents=True)
        yield draft
        draft.rename(out)
    except OSError as error:
        raise InputError(
            f"deploy {out} | got {error.strerror or error} | expected a folder that can be "
            "written | check its disk and permissions"
        ) from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def copy_bundle(bundle: Bundle, target: Path) -> None:
    """Copy the files that a bundle's manifest lists, and nothing else.

    Args:
        bundle: An opened bundle, hence a verified one.
        target: A folder that does not exist yet.
    """
    for relpath in (MANIFEST_NAME, *listed_files(bundle.manifest)):
        place = target / relpath
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(bundle.path / relpath, place)


def write_text(path: Path, text: str, *, executable: bool = False) -> None:
    """Write a text file, with its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    if executable:
        path.chmod(0o755)
