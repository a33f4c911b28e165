"""`sparsevlm compile`: NVIDIA's own parser and builder, engines published one by one."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from sparsevlm_trt.runtime.bundle import Bundle
from sparsevlm_trt.runtime.cli import main
from sparsevlm_trt.runtime.engines.compile import check_precision
from sparsevlm_trt.runtime.engines.folder import EngineFolder
from sparsevlm_trt.runtime.errors import EngineError
from sparsevlm_trt.runtime.manifest import QuantizationSpec

pytestmark = [
    pytest.mark.tensorrt,
    pytest.mark.skipif(
        importlib.util.find_spec("tensorrt") is None,
        reason="no tensorrt module: install NVIDIA's, or the CPU stand-in",
    ),
]

TARGET = ("--target", "tensorrt-rtx")


def sparsevlm(*args: object) -> Result:
    return CliRunner().invoke(main, [str(arg) for arg in args])


@pytest.fixture
def bundle(compiled, tmp_path) -> Path:
    """A compiled bundle to damage."""
    return Path(shutil.copytree(compiled, tmp_path / "bundle"))


@pytest.fixture
def bare(bundle_of, tmp_path) -> Path:
    """A bundle without engines."""
    return Path(shutil.copytree(bundle_of("llava-llama", "float16"), tmp_path / "bare"))


def test_every_graph_has_an_engine_and_a_record(compiled):
    bundle = Bundle.open(compiled)
    folder = EngineFolder(bundle, "tensorrt-rtx")
    assert set(folder.graphs()) == set(bundle.manifest.graphs)
    assert folder.unclaimed() == []
    for graph, spec in bundle.manifest.graphs.items():
        record = folder.record(graph)
        assert folder.problem(graph, record, None) is None
        assert record.spec.graph_sha256 == spec.sha256
        assert record.spec.precision == "float16"
        assert record.plan_bytes > record.weight_bytes
        assert record.peak_bytes > record.plan_bytes
        assert record.build_ms > 0


def test_a_second_compile_builds_nothing(bundle):
    before = {path: path.stat().st_mtime_ns for path in bundle.rglob("*.plan")}
    result = sparsevlm("compile", bundle, *TARGET, "--no-cache", "--max-batch", 3, "--json")
    assert result.exit_code == 0, result.output
    engines = json.loads(result.stdout)["engines"]
    assert {one["how"] for one in engines.values()} == {"ready"}
    assert before == {path: path.stat().st_mtime_ns for path in bundle.rglob("*.plan")}


def test_float32_is_refused_with_the_export_command(bundle_of):
    result = sparsevlm("compile", bundle_of(), *TARGET)
    assert result.exit_code == 1
    assert "--dtype float16" in result.stderr
    assert "sparsevlm export" in result.stderr


def test_a_quantised_float32_bundle_is_told_how_to_start_over(bundle_of):
    bundle = Bundle.open(bundle_of(), verify=False)
    told = QuantizationSpec("int8", "0" * 64, "0" * 64, 8, "0" * 64, 12, ())
    manifest = replace(bundle.manifest, quantization=told)
    with pytest.raises(EngineError, match=r"--dtype float16, then .* quantize .* --scheme int8"):
        check_precision(replace(bundle, manifest=manifest), "tensorrt-rtx")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--target", "tensorrt"), "--target tensorrt-rtx"),
        ((*TARGET, "--graph", "nose"), "nose"),
        ((*TARGET, "--capability", "90"), "data center"),
        ((*TARGET, "--max-prompt", "9999"), "512"),
    ],
)
def test_what_cannot_be_built_is_said_at_once(bare, arguments, words):
    result = sparsevlm("compile", bare, *arguments)
    assert result.exit_code == 1
    assert words in result.stderr
    assert result.stderr.count(" | ") >= 2
    assert not (bare / "engines").exists()


def test_two_bundles_share_what_is_equal(bare, tmp_path):
    cache = tmp_path / "cache"
    one = ("--graph", "embed", "--cache", cache, "--json")
    first = sparsevlm("compile", bare, *TARGET, *one)
    assert json.loads(first.stdout)["engines"]["embed"]["how"] == "built"
    other = Path(shutil.copytree(bare, tmp_path / "other", ignore=lambda *_: {"engines"}))
    second = sparsevlm("compile", other, *TARGET, *one)
    assert json.loads(second.stdout)["engines"]["embed"]["how"] == "cached"
    # Another limit is another engine.
    third = sparsevlm("compile", other, *TARGET, *one, "--max-prompt", "100")
    assert json.loads(third.stdout)["engines"]["embed"]["how"] == "built"
    assert len(list((other / "engines/tensorrt-rtx").glob("embed-*.plan"))) == 1


def test_a_damaged_twin_in_the_cache_is_built_again(bare, tmp_path):
    cache = tmp_path / "cache"
    one = ("--graph", "embed", "--cache", cache, "--json")
    sparsevlm("compile", bare, *TARGET, *one)
    (plan,) = cache.glob("*.plan")
    content = plan.read_bytes()
    plan.unlink()  # it is a link of the bundle's own
    plan.write_bytes(content[:-1] + b"?")
    other = Path(shutil.copytree(bare, tmp_path / "other", ignore=lambda *_: {"engines"}))
    result = sparsevlm("compile", other, *TARGET, *one)
    assert json.loads(result.stdout)["engines"]["embed"]["how"] == "built"


@pytest.mark.parametrize("moment", ["checking", "building"])
def test_killed_at_any_moment_it_goes_on_where_it_was(bare, moment):
    graphs = ("--graph", "embed", "--graph", "head", "--graph", "stage_0")
    command = ["-m", "sparsevlm_trt.runtime.cli", "compile", str(bare), *TARGET, "--no-cache"]
    process = subprocess.Popen([sys.executable, *command, *graphs], stderr=subprocess.PIPE)
    wanted = b"check head" if moment == "checking" else b"2/3: head"
    for line in process.stderr:
        if wanted in line:
            break
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stderr.close()
    folder = EngineFolder(Bundle.open(bare), "tensorrt-rtx")  # whole as ever
    done = folder.graphs()
    assert done == ([] if moment == "checking" else ["embed"])
    assert all(folder.problem(graph, folder.record(graph), None) is None for graph in done)
    result = sparsevlm("compile", bare, *TARGET, "--no-cache", "--json", *graphs)
    assert result.exit_code == 0, result.output
    engines = json.loads(result.stdout)["engines"]
    assert [engines[graph]["how"] for graph in done] == ["ready"] * len(done)
    assert folder.unclaimed() == []


def test_the_builder_dies_with_the_command(bare):
    command = ["-m", "sparsevlm_trt.runtime.cli", "compile", str(bare), *TARGET, "--no-cache"]
    process = subprocess.Popen([sys.executable, *command], stderr=subprocess.PIPE)
    process.stderr.readline()  # the first check is under way
    (child,) = children(process.pid)
    process.kill()
    process.wait()
    process.stderr.close()
    deadline = time.monotonic() + 10
    while is_running(child) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not is_running(child)


def children(pid: int) -> list[int]:
    return [int(one) for one in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may write anywhere")
def test_a_read_only_bundle_is_said(bare):
    bare.chmod(0o555)
    result = sparsevlm("compile", bare, *TARGET, "--graph", "embed")
    assert result.exit_code == 1
    assert "cannot be written" in result.stderr
