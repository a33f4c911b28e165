"""A folder that is built beside its place and moved there whole."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
from pathlib import Path

from sparsevlm_trt.runtime.bundle import MANIFEST_NAME
from sparsevlm_trt.runtime.errors import ExportError

__all__ = ["StagingFolder"]

LOCK_NAME = ".lock"


class StagingFolder:
    """The sibling `.NAME.partial-PID` in which a bundle NAME is built.

    Its builder holds a lock on a file in it, which the system drops however the builder ends.
    So the next run tells a left folder from one in use, also where process ids start anew, as
    they do in containers.
    """

    def __init__(self, out: Path, *, overwrite: bool) -> None:
        """Remember the place; nothing is touched yet."""
        self._out = out.resolve()  # through a link, so that the link itself is not replaced
        self._overwrite = overwrite
        self._pid = os.getpid()
        self._lock: int | None = None

    @property
    def out(self) -> Path:
        """The place, absolute."""
        return self._out

    @property
    def path(self) -> Path:
        """The folder to build in."""
        return self._sibling("partial")

    def open(self) -> None:
        """Remove what killed runs left, check the place, make the folder.

        Raises:
            ExportError: The place is taken or another run is building for it.
            OSError: The parent cannot be written.
        """
        if not self._out.parent.is_dir():
            raise ExportError(
                f"{self._out} | no folder {self._out.parent} | expected the parent to exist | "
                "make it, or choose another place"
            )
        self._clear_left_folders()
        self._check_place()
        self.path.mkdir()
        try:
            self._lock = os.open(self.path / LOCK_NAME, os.O_CREAT | os.O_RDWR, 0o600)
            with contextlib.suppress(OSError):  # a file system without locks: the id must do
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BaseException:
            self.discard()
            raise

    def commit(self) -> None:
        """Move the folder to its place, replacing the bundle there if that was asked for.

        Raises:
            ExportError: The place was taken meanwhile.
            OSError: The move failed; the place is as it was.
        """
        self._check_place()
        (self.path / LOCK_NAME).unlink()
        if not self._out.exists():
            self.path.rename(self._out)
        else:
            replaced = self._sibling("replaced")
            self._out.rename(replaced)
            try:
                self.path.rename(self._out)
            except BaseException:
                replaced.rename(self._out)
                raise
            shutil.rmtree(replaced, ignore_errors=True)
        _sync_folder(self._out.parent)
        self._release()

    def discard(self) -> None:
        """Remove the folder and all in it."""
        shutil.rmtree(self.path, ignore_errors=True)
        self._release()

    def _release(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _sibling(self, kind: str) -> Path:
        return self._out.with_name(f".{self._out.name}.{kind}-{self._pid}")

    def _check_place(self) -> None:
        """Refuse to replace anything but an empty folder or, when asked to, a bundle."""
        out = self._out
        if not out.exists():
            return
        if not out.is_dir():
            raise ExportError(f"{out} | is a file | expected a new folder | choose another place")
        if not any(out.iterdir()):
            return
        if not (out / MANIFEST_NAME).is_file():
            raise ExportError(
                f"{out} | holds something that is no bundle | expected a new folder | "
                "choose another place"
            )
        if not self._overwrite:
            raise ExportError(
                f"{out} | holds a bundle | expected a new folder | "
                "ask to overwrite it, or choose another place"
            )

    def _clear_left_folders(self) -> None:
        """Remove the folders of killed runs; put back a bundle that one was replacing."""
        parent, name = self._out.parent, self._out.name
        left = [path for path in parent.iterdir() if path.is_dir() and not path.is_symlink()]
        for path in left:
            pid = path.name.removeprefix(f".{name}.partial-")
            if pid == path.name or not pid.isdecimal():
                continue
            if _is_locked(path / LOCK_NAME):
                raise ExportError(
                    f"{self._out} | process {pid} is writing it | expected nobody else | "
                    "wait for it to end"
                )
            if int(pid) == self._pid or not _is_alive(int(pid)):
                shutil.rmtree(path)
        for path in left:
            pid = path.name.removeprefix(f".{name}.replaced-")
            if pid == path.name or not pid.isdecimal():
                continue
            if not self._out.exists():
                path.rename(self._out)
            elif int(pid) == self._pid or not _is_alive(int(pid)):
                shutil.rmtree(path)


def _is_locked(path: Path) -> bool:
    """Whether a builder holds the lock."""
    try:
        lock = os.open(path, os.O_RDWR)
    except OSError:
        return False
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # a file system without locks
        return False
    finally:
        os.close(lock)
    return False


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True


def _sync_folder(path: Path) -> None:
    """Make a rename last through a power cut."""
    folder = os.open(path, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
