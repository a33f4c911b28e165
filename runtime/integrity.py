"""Whether the files of a bundle are the ones its manifest names: paths, sizes, hashes."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath

from sparsevlm_trt.runtime.graph_spec import FileSpec

__all__ = ["CHUNK_BYTES", "file_problems", "path_problem", "sha256_of"]

CHUNK_BYTES = 1 << 20  # read at once; larger ones leave the processor's cache and hash no faster
MAX_THREADS = 8  # past this a disk, not the hashing, is what one waits for


def path_problem(relpath: str) -> str | None:
    """Say why a path cannot name a file inside a bundle, or None where it can.

    The rule is the same on every system: relative, `/` between plain names, nothing else.
    """
    if not relpath or not relpath.isprintable():
        return f"path {relpath!r} | expected a printable relative path"
    if "\\" in relpath or ":" in relpath:
        return f"path {relpath!r} | holds a backslash or a colon | expected names with / between"
    if PurePosixPath(relpath).is_absolute():
        return f"path {relpath!r} | is absolute | expected a path inside the bundle"
    if any(part in ("", ".", "..") for part in relpath.split("/")):
        return f"path {relpath!r} | holds an empty, . or .. part | expected a path inside"
    return None


def sha256_of(path: Path) -> str:
    """Hash a file without holding it: SHA-256, hexadecimal."""
    digest = hashlib.sha256()
    buffer = memoryview(bytearray(CHUNK_BYTES))
    with path.open("rb", buffering=0) as file:
        while count := file.readinto(buffer):
            digest.update(buffer[:count])  # releases the interpreter lock
    return digest.hexdigest()


def file_problems(root: Path, files: Mapping[str, FileSpec], *, hashes: bool) -> list[str]:
    """Compare files with what they must be.

    Args:
        root: The bundle's folder.
        files: What each path (relative to `root`, `/` between names) must be.
        hashes: Also read every file and compare its SHA-256; without, paths and sizes only.

    Returns:
        One sentence per problem, in the order of the paths; no file is opened whose path leaves
        the folder, and none is hashed whose size is wrong.
    """
    inside = root.resolve()

    def check(relpath: str) -> str | None:
        return _file_problem(inside, relpath, files[relpath], hashes)

    threads = min(MAX_THREADS, len(os.sched_getaffinity(0)))
    # Largest first, so that no thread is left with a big file when the others are done.
    order = sorted(files, key=lambda relpath: -files[relpath].size_bytes)
    with ThreadPoolExecutor(threads) as pool:
        found = dict(zip(order, pool.map(check, order), strict=True))
    return [problem for relpath in sorted(files) if (problem := found[relpath]) is not None]


def _file_problem(inside: Path, relpath: str, spec: FileSpec, hashes: bool) -> str | None:
    """Check one file; `inside` has no symbolic link left in it."""
    problem = path_problem(relpath)
    if problem is not None:
        return problem
    try:
        path = (inside / relpath).resolve(strict=True)
        if not path.is_relative_to(inside):
            return f"{relpath} | is a link that leaves the folder | expected a file inside it"
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            return f"{relpath} | is not a file | expected a file of {spec.size_bytes} bytes"
        if status.st_size != spec.size_bytes:
            return f"{relpath} | {status.st_size} bytes | expected {spec.size_bytes} bytes"
        got = sha256_of(path) if hashes else spec.sha256
    except FileNotFoundError:
        return f"{relpath} | missing | expected a file of {spec.size_bytes} bytes"
    except (OSError, RuntimeError) as error:  # RuntimeError: a loop of links, before Python 3.13
        return f"{relpath} | cannot be read: {error} | expected a readable file"
    if got != spec.sha256:
        return f"{relpath} | altered: sha256 {got[:12]}... | expected {spec.sha256[:12]}..."
    return None
