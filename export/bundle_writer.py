"""Write a bundle so that at every moment there is a whole one or none."""

from __future__ import annotations

import errno
import hashlib
import io
import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

from sparsevlm_trt.export.chunks import CHUNK_BYTES, Chunk, buffers, file_chunks
from sparsevlm_trt.export.staging import StagingFolder
from sparsevlm_trt.runtime.bundle import MANIFEST_NAME, listed_files
from sparsevlm_trt.runtime.errors import ExportError
from sparsevlm_trt.runtime.graph_spec import FileSpec, GraphSpec, TensorSpec
from sparsevlm_trt.runtime.integrity import file_problems, path_problem, sha256_of
from sparsevlm_trt.runtime.manifest import Manifest
from sparsevlm_trt.runtime.problems import told_at_once
from sparsevlm_trt.runtime.wiring import WEIGHTS_PREFIX, wiring_problems

__all__ = ["BundleWriter"]

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class BundleWriter:
    """Builds a bundle in a sibling folder and moves it into place as its last act.

    On any failure, an interrupt too, nothing is left behind; what a killed run leaves, the next
    one for the same folder removes. A `with` block that ends by `finish`:

        with BundleWriter(out) as writer:
            weight = writer.add_weight("model.embed_tokens", array)
            save(writer.graph_path("embed"))
            ...
            writer.finish(manifest)
    """

    def __init__(self, out: str | Path, *, overwrite: bool = False) -> None:
        """Remember where to; nothing is touched before the `with` block.

        Args:
            out: The bundle's folder to be; its parent must exist.
            overwrite: Replace a bundle that is already there. Another folder never is.
        """
        self._staging = StagingFolder(Path(out), overwrite=overwrite)
        self._files: dict[str, FileSpec] = {}
        self._written_bytes = 0
        self._is_finished = False

    def __enter__(self) -> BundleWriter:
        """Make the folder to build in.

        Raises:
            ExportError: The place is taken, or cannot be written.
        """
        with self._storing("the folder"):
            self._staging.open()
            try:
                (self.path / WEIGHTS_PREFIX).mkdir(parents=True)
            except BaseException:
                self._staging.discard()
                raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Remove what was built unless it was finished.

        Raises:
            ExportError: The block failed because the disk is full.
        """
        if self._is_finished:
            return
        is_full = isinstance(error, OSError) and error.errno in NO_ROOM
        # Spelled before the folder goes, which gives the room back.
        sentence = self._failure("the bundle", error) if is_full else ""
        self._staging.discard()
        if is_full:
            raise ExportError(sentence) from error
        if error is None:
            raise RuntimeError("the BundleWriter block ended without finish()")

    @property
    def path(self) -> Path:
        """The folder to build in; inside it, paths are those of the bundle."""
        return self._staging.path

    @property
    def files(self) -> dict[str, FileSpec]:
        """What was added so far, as the manifest's `files` must say it."""
        return dict(self._files)

    def add_weight(self, name: str, data: Chunk | Iterable[Chunk]) -> str:
        """Store the bytes of a tensor, once for all who add the same.

        Args:
            name: The tensor's name, for errors.
            data: Its bytes: one buffer (an array of any dtype, C-contiguous), or an iterable of
                buffers, each of which is let go before the next is taken.

        Returns:
            The file in the bundle, `graphs/weights/<sha256>.bin`.

        Raises:
            ExportError: The disk is full, or the buffer is not contiguous.
        """
        spec, partial = self._store(f"weight {name}", buffers(name, data))
        relpath = f"{WEIGHTS_PREFIX}{spec.sha256}.bin"
        with self._storing(f"weight {name}"):
            partial.replace(self.path / relpath)  # the same bytes, where it was there before
        self._files[relpath] = spec
        return relpath

    def add_file(self, relpath: str, data: bytes | Path) -> FileSpec:
        """Store a file of the processor or a report, verbatim.

        Args:
            relpath: Where in the bundle, `processor/tokenizer.json`.
            data: Its bytes, or the file to copy.

        Raises:
            ExportError: The path leaves the bundle or is taken, the file to copy cannot be read,
                or the disk is full.
        """
        problem = path_problem(relpath)
        if problem is None and (relpath == MANIFEST_NAME or (self.path / relpath).exists()):
            problem = f"path {relpath!r} | is taken | expected each file once"
        if problem is not None:
            raise ExportError(f"bundle {self._staging.out} | {problem} | choose another path")
        chunks = [memoryview(data)] if isinstance(data, bytes) else file_chunks(data)
        spec, partial = self._store(relpath, chunks)
        with self._storing(relpath):
            (self.path / relpath).parent.mkdir(parents=True, exist_ok=True)
            partial.replace(self.path / relpath)
        self._files[relpath] = spec
        return spec

    def graph_path(self, name: str) -> Path:
        """Where to write a graph; its external data is `weights/<sha256>.bin` from there."""
        return self.path / "graphs" / f"{name}.onnx"

    def graph_spec(
        self,
        name: str,
        inputs: Sequence[TensorSpec],
        outputs: Sequence[TensorSpec],
        weights: Iterable[str],
    ) -> GraphSpec:
        """Describe a graph that was written to `graph_path(name)`.

        Args:
            name: The graph's name.
            inputs: Its inputs, in order.
            outputs: Its outputs, in order.
            weights: The files that it reads, as `add_weight` gave them; repeats are dropped.
        """
        path = self.graph_path(name)
        return GraphSpec(
            file=path.relative_to(self.path).as_posix(),
            sha256=sha256_of(path),
            size_bytes=path.stat().st_size,
            inputs=tuple(inputs),
            outputs=tuple(outputs),
            weights=tuple(sorted(set(weights))),
        )

    def finish(self, manifest: Manifest) -> Path:
        """Check the manifest against what was written, write it, and move the bundle to its place.

        Returns:
            The bundle's folder.

        Raises:
            ExportError: The manifest and the files disagree, the place was taken, or the disk is
                full.
        """
        problems = self._manifest_problems(manifest)
        if problems:
            raise ExportError(
                told_at_once(f"bundle {self._staging.out}", problems, "this export cannot be used")
            )
        with self._storing(MANIFEST_NAME):
            with (self.path / MANIFEST_NAME).open("wb") as file:
                file.write(manifest.to_text().encode("ascii"))
                file.flush()
                os.fsync(file.fileno())
            self._staging.commit()
        self._is_finished = True
        return self._staging.out

    def _manifest_problems(self, manifest: Manifest) -> list[str]:
        """What `Bundle.open` would refuse, and files that only one side knows."""
        problems = wiring_problems(manifest)
        for relpath in sorted(set(self._files) | set(manifest.files)):
            if self._files.get(relpath) != manifest.files.get(relpath):
                problems.append(f"files[{relpath}] | not as it was written | expected its spec")
        Manifest.from_json(manifest.to_json())  # its own rules, as the reader will apply them
        listed = listed_files(manifest)
        graphs = {path: spec for path, spec in listed.items() if path not in self._files}
        problems += file_problems(self.path, graphs, hashes=True)
        # The rest was hashed as it was written.
        written = {path: spec for path, spec in listed.items() if path in self._files}
        return problems + file_problems(self.path, written, hashes=False)

    def _store(self, what: str, chunks: Iterable[memoryview]) -> tuple[FileSpec, Path]:
        """Write chunks to a nameless file, hashing on the way.

        An error of the iterable itself (a checkpoint that cannot be read) passes as it is.
        """
        partial = self.path / ".partial"
        digest, size = hashlib.sha256(), 0
        try:
            with self._storing(what):
                file = partial.open("wb", buffering=0)
            with file:
                for chunk in chunks:
                    for start in range(0, len(chunk), CHUNK_BYTES):
                        piece = chunk[start : start + CHUNK_BYTES]
                        digest.update(piece)
                        with self._storing(what):
                            _write_all(file, piece)
                        self._written_bytes += len(piece)
                    size += len(chunk)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise
        return FileSpec(digest.hexdigest(), size), partial

    @contextmanager
    def _storing(self, what: str) -> Iterator[None]:
        """Tell a failure to write in one sentence."""
        try:
            yield
        except OSError as error:
            raise ExportError(self._failure(what, error)) from error

    def _failure(self, what: str, error: BaseException | None) -> str:
        """Spell why something could not be stored, with the sizes that matter."""
        out = self._staging.out
        if not (isinstance(error, OSError) and error.errno in NO_ROOM):
            reason = error.strerror if isinstance(error, OSError) else error
            return (
                f"{out} | cannot store {what}: {reason} | expected a folder to write in | "
                "mend it, or choose another place"
            )
        free_bytes = shutil.disk_usage(out.parent).free
        return (
            f"{out} | no room for {what} after {self._written_bytes} bytes "
            f"({free_bytes} bytes free: {error.strerror}) | expected room for the whole bundle | "
            "free some, or choose another place"
        )


def _write_all(file: io.FileIO, piece: memoryview) -> None:
    """Write a piece whole: a raw file may take less than it is given."""
    while piece:
        piece = piece[file.write(piece) :]
