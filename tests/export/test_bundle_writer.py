"""At every moment there is a whole bundle or none, and a failure is one sentence."""
# ruff: noqa: PT012 (what is under test is a `with` block)

import errno
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from sparsevlm_trt.export.bundle_writer import BundleWriter
from sparsevlm_trt.export.chunks import CHUNK_BYTES
from sparsevlm_trt.runtime.bundle import Bundle
from sparsevlm_trt.runtime.errors import ExportError
from sparsevlm_trt.runtime.graph_spec import FileSpec, GraphSpec
from sparsevlm_trt.runtime.manifest import Manifest

SAMPLE = Path(__file__).parents[1] / "runtime" / "samples" / "bundle.json"
WEIGHTS = b"weights of embed, tied with head"


def write(writer: BundleWriter) -> Manifest:
    """Write the sample's files and say what its manifest must."""
    sample = Manifest.from_text(SAMPLE.read_bytes())
    weight = writer.add_weight("embed.weight", WEIGHTS)
    writer.add_file("processor/tokenizer.json", b"{}\n")
    graphs: dict[str, GraphSpec] = {}
    for name, graph in sample.graphs.items():
        writer.graph_path(name).write_bytes(f"graph {name}".encode())
        weights = [weight, weight] if graph.weights else []
        graphs[name] = writer.graph_spec(name, graph.inputs, graph.outputs, weights)
    return replace(sample, graphs=graphs, files=writer.files)


def write_bundle(out: Path, overwrite: bool = False) -> Path:
    with BundleWriter(out, overwrite=overwrite) as writer:
        return writer.finish(write(writer))


@pytest.fixture
def writer(tmp_path: Path) -> Iterator[BundleWriter]:
    """A writer that is given up after the test."""
    with suppress(KeyboardInterrupt), BundleWriter(tmp_path / "out") as writer:
        yield writer
        raise KeyboardInterrupt
    assert not (tmp_path / "out").exists()
    assert not writer.path.exists()


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_finished_bundle_opens_and_is_all_there_is(tmp_path: Path) -> None:
    out = write_bundle(tmp_path / "out")
    assert out == tmp_path / "out"
    assert names(tmp_path) == ["out"]
    assert names(out) == ["bundle.json", "graphs", "processor"]
    assert (out / "bundle.json").read_bytes() == SAMPLE.read_bytes()
    assert Bundle.open(out).graph_path("head").read_bytes() == b"graph head"


def test_until_finish_the_place_is_empty(tmp_path: Path) -> None:
    with BundleWriter(tmp_path / "out") as writer:
        manifest = write(writer)
        assert names(tmp_path) == [f".out.partial-{os.getpid()}"]
        writer.finish(manifest)
    assert names(tmp_path) == ["out"]


def as_pieces(data: bytes, size: int) -> Iterator[bytes]:
    for start in range(0, len(data), size):
        yield data[start : start + size]


@pytest.mark.parametrize("size", [0, 1, CHUNK_BYTES - 1, CHUNK_BYTES + 1])
def test_a_weight_is_named_by_its_hash_however_it_comes(writer: BundleWriter, size: int) -> None:
    data = os.urandom(size)
    array = np.frombuffer(data, np.uint8)
    name = f"graphs/weights/{hashlib.sha256(data).hexdigest()}.bin"
    assert writer.add_weight("a", data) == name
    assert writer.add_weight("b", bytearray(data)) == name
    assert writer.add_weight("c", as_pieces(data, 100_000)) == name
    assert writer.add_weight("d", array) == name
    assert writer.add_weight("e", [array[: size // 2], array[size // 2 :]]) == name
    assert writer.files == {name: FileSpec(hashlib.sha256(data).hexdigest(), size)}
    assert names(writer.path / "graphs" / "weights") == [Path(name).name]
    assert (writer.path / name).read_bytes() == data


@pytest.mark.parametrize("dtype", ["float32", "float16", "int64", "bool", "bfloat16"])
@pytest.mark.parametrize("shape", [(), (0, 3), (2, 3)])
def test_arrays_of_every_dtype_and_rank_are_stored(
    writer: BundleWriter, dtype: str, shape: tuple[int, ...]
) -> None:
    if dtype == "bfloat16":
        ml_dtypes = pytest.importorskip("ml_dtypes", reason="bfloat16 arrays come from ml_dtypes")
        kind = np.dtype(ml_dtypes.bfloat16)
    else:
        kind = np.dtype(dtype)
    array = np.ones(shape, kind)
    assert (writer.path / writer.add_weight("w", array)).read_bytes() == array.tobytes()


def test_a_strided_array_is_refused_rather_than_copied(tmp_path: Path) -> None:
    with (
        pytest.raises(ExportError, match=r"weight w \| strides .* give it row by row"),
        BundleWriter(tmp_path / "out") as writer,
    ):
        writer.add_weight("w", np.ones((4, 4)).T)
    assert names(tmp_path) == []


def test_a_tensor_is_streamed_not_held(writer: BundleWriter) -> None:
    resource = pytest.importorskip("resource")
    row = np.zeros(1 << 20, np.uint8)
    before_kb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    writer.add_weight("w", (row for _ in range(128)))
    grown_kb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kb
    assert grown_kb < 32 * 1024  # of 128 MiB


def test_files_are_copied_verbatim_once_and_inside(writer: BundleWriter, tmp_path: Path) -> None:
    source = tmp_path / "tokenizer.json"
    source.write_bytes(b"x" * (CHUNK_BYTES + 3))
    spec = writer.add_file("processor/tokenizer.json", source)
    assert spec == FileSpec(hashlib.sha256(source.read_bytes()).hexdigest(), CHUNK_BYTES + 3)
    for taken in ("processor/tokenizer.json", "bundle.json", "processor"):
        with pytest.raises(ExportError, match="is taken"):
            writer.add_file(taken, b"")
    for path in ("../x", "/x", "a\\b", ""):
        with pytest.raises(ExportError, match="choose another path"):
            writer.add_file(path, b"")
    with pytest.raises(ExportError, match=r"missing \| cannot be read: No such file"):
        writer.add_file("processor/x", tmp_path / "missing")
    assert names(writer.path) == [".lock", "graphs", "processor"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, ValueError, MemoryError])
def test_any_failure_leaves_nothing(tmp_path: Path, error: type[BaseException]) -> None:
    with pytest.raises(error), BundleWriter(tmp_path / "out") as writer:
        write(writer)
        raise error
    assert names(tmp_path) == []


def test_a_block_without_finish_is_a_bug(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="without finish"), BundleWriter(tmp_path / "out"):
        pass
    assert names(tmp_path) == []


def test_a_checkpoint_that_cannot_be_read_is_not_called_a_full_disk(tmp_path: Path) -> None:
    def chunks() -> Iterator[bytes]:
        yield b"first"
        raise OSError(errno.EIO, "checkpoint is on a broken disk")

    with pytest.raises(OSError, match="broken disk"), BundleWriter(tmp_path / "out") as writer:
        writer.add_weight("w", chunks())
    assert names(tmp_path) == []


def test_a_manifest_that_disagrees_with_the_files_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ExportError) as caught, BundleWriter(tmp_path / "out") as writer:
        manifest = write(writer)
        writer.add_file("processor/more.json", b"{}")
        writer.graph_path("head").write_bytes(b"graph HEAD")
        writer.finish(replace(manifest, stages=manifest.stages[:1]))
    said = str(caught.value)
    assert "files[processor/more.json] | not as it was written" in said
    assert "graphs/head.onnx | altered" in said
    assert "stages | end before layer 1" in said
    assert names(tmp_path) == []


def test_the_place_must_be_free(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(ExportError, match="expected the parent to exist"):
        write_bundle(out / "deeper")
    out.mkdir()
    write_bundle(out)  # an empty folder is free
    for overwrite in (False, True):
        (tmp_path / "file").write_text("")
        with pytest.raises(ExportError, match="is a file"):
            write_bundle(tmp_path / "file", overwrite)
        (tmp_path / "thesis").mkdir(exist_ok=True)
        (tmp_path / "thesis" / "chapter").write_text("")
        with pytest.raises(ExportError, match="holds something that is no bundle"):
            write_bundle(tmp_path / "thesis", overwrite)
    with pytest.raises(ExportError, match=r"holds a bundle .* ask to overwrite"):
        write_bundle(out)
    assert names(tmp_path) == ["file", "out", "thesis"]
    assert names(tmp_path / "thesis") == ["chapter"]


def test_overwriting_replaces_the_whole_bundle_or_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = write_bundle(tmp_path / "out")
    (out / "reports").mkdir()
    with pytest.raises(ValueError), BundleWriter(out, overwrite=True) as writer:
        write(writer)
        raise ValueError
    assert (out / "reports").is_dir()

    rename = Path.rename

    def failing(self: Path, target: Path) -> Path:
        if ".partial-" in self.name:
            raise OSError(errno.EIO, "Input/output error")
        return rename(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", failing)
        with pytest.raises(ExportError, match=r"cannot store bundle\.json: Input/output error"):
            write_bundle(out, overwrite=True)
    assert (out / "reports").is_dir()
    assert names(tmp_path) == ["out"]

    write_bundle(out, overwrite=True)
    Bundle.open(out)
    assert not (out / "reports").exists()
    assert names(tmp_path) == ["out"]


def test_a_link_to_a_bundle_stays_a_link(tmp_path: Path) -> None:
    write_bundle(tmp_path / "real")
    (tmp_path / "link").symlink_to("real")
    assert write_bundle(tmp_path / "link", overwrite=True) == tmp_path / "real"
    assert (tmp_path / "link").is_symlink()
    Bundle.open(tmp_path / "link")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize("what", ["weight", "file", "manifest", "graph"])
def test_a_full_disk_is_one_sentence_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    opened = Path.open

    def full(self: Path, mode: str = "r", **options: int) -> object:
        return opened(Path("/dev/full") if "w" in mode else self, mode, **options)

    with pytest.raises(ExportError) as caught, BundleWriter(tmp_path / "out") as writer:
        manifest = write(writer)
        monkeypatch.setattr(Path, "open", full)
        if what == "weight":
            writer.add_weight("model.embed", b"more")
        elif what == "file":
            writer.add_file("processor/more.json", b"more")
        elif what == "graph":
            with writer.graph_path("head").open("wb") as file:  # the caller's own write
                file.write(b"more")
        else:
            writer.finish(manifest)
    named = {"weight": "weight model.embed", "file": "processor/more.json"}
    named |= {"manifest": "bundle.json", "graph": "the bundle"}
    said = str(caught.value)
    assert f"no room for {named[what]} after {len(WEIGHTS) + 3} bytes" in said
    assert "bytes free: No space left on device" in said
    assert said.count(" | ") == 3
    assert "\n" not in said
    assert isinstance(caught.value.__cause__, OSError)
    assert names(tmp_path) == []


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    disk = tmp_path / "disk"
    disk.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)]
    mount = shutil.which("mount")
    if mount is None or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("needs the right to mount a tmpfs")
    try:
        yield disk
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_a_really_full_disk_is_given_back(small_disk: Path) -> None:
    chunk = bytes(300_000)
    said = "no room for weight w after [0-9]+ bytes .*No space left"
    with pytest.raises(ExportError, match=said), BundleWriter(small_disk / "out") as writer:
        writer.add_weight("w", [chunk] * 9)
    assert names(small_disk) == []
    assert shutil.disk_usage(small_disk).free > 1_000_000


def test_a_file_size_limit_is_told_like_a_full_disk(tmp_path: Path) -> None:
    resource = pytest.importorskip("resource", reason="needs POSIX limits")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    said = "no room for weight w after 0 bytes .*File too large"
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, hard))
    try:
        with pytest.raises(ExportError, match=said), BundleWriter(tmp_path / "out") as writer:
            writer.add_weight("w", bytes(2_000_000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert names(tmp_path) == []


BUILDING = """
import sys, time
from sparsevlm_trt.export.bundle_writer import BundleWriter
with BundleWriter(sys.argv[1]) as writer:
    writer.add_weight("w", bytes(100_000))
    print("building", flush=True)
    time.sleep(60)
"""


def test_what_a_killed_run_leaves_the_next_one_removes(tmp_path: Path) -> None:
    out = tmp_path / "out"
    command = [sys.executable, "-c", BUILDING, str(out)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as run:
        assert run.stdout is not None
        try:
            assert run.stdout.readline() == "building\n"
            with pytest.raises(ExportError, match=f"process {run.pid} is writing it"):
                write_bundle(out)
            assert names(tmp_path) == [f".out.partial-{run.pid}"]
        finally:
            run.send_signal(signal.SIGKILL)
    assert names(tmp_path) == [f".out.partial-{run.pid}"]
    (tmp_path / f".other.partial-{run.pid}").mkdir()  # of another bundle: not ours to remove
    (tmp_path / ".out.partial-notes").mkdir()
    write_bundle(out)
    assert names(tmp_path) == [".other.partial-" + str(run.pid), ".out.partial-notes", "out"]
    Bundle.open(out)


def test_process_ids_that_start_anew_do_not_keep_a_left_folder(tmp_path: Path) -> None:
    (tmp_path / f".out.partial-{os.getpid()}").mkdir()  # what process 1 of a container leaves
    write_bundle(tmp_path / "out")
    assert names(tmp_path) == ["out"]


def test_a_run_killed_while_replacing_gives_the_bundle_back(tmp_path: Path) -> None:
    out = write_bundle(tmp_path / "out")
    out.rename(tmp_path / f".out.replaced-{2**22 + 1}")  # beyond the kernel's largest id
    with pytest.raises(ExportError, match="holds a bundle"):
        write_bundle(out)
    assert names(tmp_path) == ["out"]
    shutil.copytree(out, tmp_path / f".out.replaced-{2**22 + 1}")
    write_bundle(out, overwrite=True)
    assert names(tmp_path) == ["out"]


def test_two_writers_of_one_process_do_not_meet(tmp_path: Path) -> None:
    with BundleWriter(tmp_path / "out") as writer:
        with pytest.raises(ExportError, match="is writing it"):
            write_bundle(tmp_path / "out")
        writer.finish(write(writer))
    Bundle.open(tmp_path / "out")


def test_the_same_input_writes_the_same_bytes(tmp_path: Path) -> None:
    one, two = write_bundle(tmp_path / "one"), write_bundle(tmp_path / "two")
    assert json.loads((one / "bundle.json").read_text())["files"]
    files = sorted(path.relative_to(one) for path in one.rglob("*") if path.is_file())
    assert files == sorted(path.relative_to(two) for path in two.rglob("*") if path.is_file())
    assert all((one / path).read_bytes() == (two / path).read_bytes() for path in files)
