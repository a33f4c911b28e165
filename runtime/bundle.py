"""A bundle on disk: a folder that is opened only if it is whole, unaltered and of this version."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from sparsevlm_trt.runtime.errors import BundleError
from sparsevlm_trt.runtime.graph_spec import FileSpec
from sparsevlm_trt.runtime.integrity import file_problems
from sparsevlm_trt.runtime.manifest import Manifest
from sparsevlm_trt.runtime.problems import told_at_once
from sparsevlm_trt.runtime.wiring import wiring_problems

__all__ = ["MANIFEST_NAME", "PROCESSOR_FOLDER", "Bundle"]

MANIFEST_NAME = "bundle.json"
PROCESSOR_FOLDER = "processor"
REMEDY = "copy the bundle again, or export it again"


@dataclass(frozen=True, slots=True)
class Bundle:
    """An opened bundle.

    Attributes:
        path: Its folder.
        manifest: What its `bundle.json` says.
    """

    path: Path
    manifest: Manifest

    @classmethod
    def open(cls, path: str | Path, verify: bool = True) -> Bundle:
        """Open a bundle and check it.

        Args:
            path: The bundle's folder.
            verify: Read every file and compare its hash, and refuse unlisted files among the
                processor's. Without, the manifest, the paths and the sizes are still checked.

        Raises:
            BundleError: No such folder, no manifest, another version, or everything else that is
                wrong with the bundle, at once.
        """
        root = Path(path)
        manifest = Manifest.from_text(_manifest_bytes(root))
        problems = wiring_problems(manifest)
        problems += file_problems(root, listed_files(manifest), hashes=verify)
        if verify:
            problems += _unlisted_problems(root, manifest)
        if problems:
            raise BundleError(told_at_once(f"bundle {root}", problems, REMEDY))
        return cls(path=root, manifest=manifest)

    @property
    def sha256(self) -> str:
        """The hash of the manifest, hexadecimal; it holds those of all other files."""
        return hashlib.sha256((self.path / MANIFEST_NAME).read_bytes()).hexdigest()

    @property
    def processor(self) -> Path:
        """The folder of tokenizer, chat template and image preprocessing files."""
        return self.path / PROCESSOR_FOLDER

    def graph_path(self, name: str) -> Path:
        """The ONNX file of a graph.

        Raises:
            BundleError: The bundle has no such graph.
        """
        graph = self.manifest.graphs.get(name)
        if graph is None:
            raise BundleError(
                f"bundle {self.path} | no graph {name!r} | "
                f"expected one of {_listed(self.manifest.graphs)} | export it with that graph"
            )
        return self.path / graph.file

    def has_file(self, relpath: str) -> bool:
        """Whether the manifest lists a file, `processor/tokenizer.json`."""
        return relpath in self.manifest.files

    def file(self, relpath: str) -> Path:
        """A file that the manifest lists, hence one that was checked.

        Raises:
            BundleError: The manifest does not list it.
        """
        if not self.has_file(relpath):
            folder = relpath.rpartition("/")[0]
            near = [name for name in self.manifest.files if name.startswith(f"{folder}/")]
            raise BundleError(
                f"bundle {self.path} | no file {relpath!r} | "
                f"expected one of {_listed(near or self.manifest.files)} | {REMEDY}"
            )
        return self.path / relpath


def listed_files(manifest: Manifest) -> dict[str, FileSpec]:
    """Every file that a manifest names, graphs included, by its path in the bundle."""
    graphs = {
        graph.file: FileSpec(graph.sha256, graph.size_bytes) for graph in manifest.graphs.values()
    }
    return {**graphs, **manifest.files}


def _manifest_bytes(root: Path) -> bytes:
    """Read `bundle.json`, or say which of the ways to miss it happened."""
    advice = "give the folder that the export wrote"
    try:
        if not root.exists():
            raise BundleError(f"bundle {root} | no such folder | expected a bundle | {advice}")
        if not root.is_dir():
            raise BundleError(f"bundle {root} | is a file | expected a bundle's folder | {advice}")
        path = root / MANIFEST_NAME
        if not path.is_file():
            raise BundleError(
                f"bundle {root} | holds no {MANIFEST_NAME} | expected one | {advice}"
            )
        if not path.resolve().is_relative_to(root.resolve()):
            raise BundleError(
                f"bundle {root} | {MANIFEST_NAME} is a link that leaves the folder | "
                f"expected a file inside it | {REMEDY}"
            )
        return path.read_bytes()
    except OSError as error:
        raise BundleError(
            f"bundle {root} | cannot be read: {error} | expected a readable folder | "
            "mend its permissions"
        ) from error


def _unlisted_problems(root: Path, manifest: Manifest) -> list[str]:
    """Files that would change what the processor does without having been exported."""
    folder = root / PROCESSOR_FOLDER
    found = {
        path.relative_to(root).as_posix()
        for path in folder.rglob("*")
        if not path.is_dir() and not path.name.startswith(".")  # .DS_Store and its like
    }
    unlisted = sorted(found - set(manifest.files))
    return [f"{relpath} | not in {MANIFEST_NAME} | expected no such file" for relpath in unlisted]


def _listed(names: Iterable[str]) -> str:
    return ", ".join(sorted(names)) or "none"
