"""`sparsevlm engines`: every way that an engine can be the wrong one is found, and said."""

from __future__ import annotations

import importlib.util
import json
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from sparsevlm_trt.runtime.bundle import Bundle
from sparsevlm_trt.runtime.cli import main
from sparsevlm_trt.runtime.engines.cache import EngineCache
from sparsevlm_trt.runtime.engines.folder import EngineFolder
from sparsevlm_trt.runtime.engines.record import EngineRecord, EngineSpec, Machine
from sparsevlm_trt.runtime.integrity import sha256_of

pytestmark = [
    pytest.mark.tensorrt,
    pytest.mark.skipif(
        importlib.util.find_spec("tensorrt") is None,
        reason="no tensorrt module: install NVIDIA's, or the CPU stand-in",
    ),
]


def engines(*args: object) -> Result:
    return CliRunner().invoke(main, ["engines", *map(str, args)])


@pytest.fixture
def bundle(compiled, tmp_path) -> Path:
    """A compiled bundle to damage."""
    return Path(shutil.copytree(compiled, tmp_path / "bundle"))


def place(bundle: Path) -> Path:
    return bundle / "engines/tensorrt-rtx"


def count(bundle: Path) -> int:
    return len(Bundle.open(bundle, verify=False).manifest.graphs)


def plan_of(bundle: Path, graph: str) -> Path:
    return next(place(bundle).glob(f"{graph}-*.plan"))


def edit_record(bundle: Path, graph: str, change) -> None:
    path = place(bundle) / f"{graph}.json"
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value))


def test_a_sound_bundle_is_listed_and_verified(compiled):
    listed = engines("list", compiled)
    assert listed.exit_code == 0
    for graph in Bundle.open(compiled, verify=False).manifest.graphs:
        assert graph in listed.stdout
    assert f"{count(compiled)} engines are sound" in engines("verify", compiled).stdout
    assert json.loads(engines("verify", compiled, "--json").stdout)["sound"] is True


def test_no_engines_is_no_error(bundle_of):
    result = engines("list", bundle_of("llava-llama", "float16"))
    assert result.exit_code == 0
    assert "sparsevlm compile" in result.stdout


def flip_a_byte(bundle):
    path = plan_of(bundle, "stage_0")
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def cut_short(bundle):
    path = plan_of(bundle, "stage_0")
    path.write_bytes(path.read_bytes()[:-10])


def lose_the_plan(bundle):
    plan_of(bundle, "stage_0").unlink()


def swap_the_plans(bundle):
    one, other = plan_of(bundle, "stage_0"), plan_of(bundle, "stage_1")
    first, second = one.read_bytes(), other.read_bytes()
    one.write_bytes(second)
    other.write_bytes(first)


def swap_everything(bundle):
    folder = place(bundle)
    shutil.copy(folder / "stage_1.json", folder / "stage_0.json")


def name_another_plan(bundle):
    other = plan_of(bundle, "stage_1").name
    edit_record(bundle, "stage_0", lambda record: record.update(plan_file=other))


def age_the_library(bundle):
    edit_record(bundle, "stage_0", lambda r: r["spec"]["machine"].update(version="1.6.0.1"))


def tune_on_another_gpu(bundle):
    edit_record(bundle, "stage_0", lambda r: r["spec"]["machine"].update(gpu="Other GPU"))


def change_the_graph(bundle):
    edit_record(bundle, "stage_0", lambda r: r["spec"].update(graph_sha256="0" * 64))


def garble_the_record(bundle):
    (place(bundle) / "stage_0.json").write_text("{")


def age_the_record(bundle):
    edit_record(bundle, "stage_0", lambda record: record.update(record_version=0))


@pytest.mark.parametrize(
    ("damage", "word"),
    [
        (flip_a_byte, "altered"),
        (cut_short, "bytes"),
        (lose_the_plan, "missing"),
        (swap_the_plans, "stage_0"),
        (swap_everything, "of graph stage_1"),
        (name_another_plan, "its own plan"),
        (age_the_library, "1.6.0.1"),
        (tune_on_another_gpu, "Other GPU"),
        (change_the_graph, "000000000000"),
        (garble_the_record, "JSON"),
        (age_the_record, "record_version"),
    ],
)
def test_a_wrong_engine_is_refused_with_the_command_that_mends_it(bundle, damage, word):
    damage(bundle)
    result = engines("verify", bundle)
    assert result.exit_code == 1
    assert word in result.stderr
    assert f"sparsevlm compile {bundle} --target tensorrt-rtx --graph stage_0" in result.stderr
    Bundle.open(bundle)  # its graphs are whole: it runs elsewhere as before


def test_the_command_mends_it(bundle):
    flip_a_byte(bundle)
    told = engines("verify", bundle).stderr
    command = told[told.index("sparsevlm compile") :].split()
    result = CliRunner().invoke(main, [*command[1:], "--no-cache", "--json"])
    assert json.loads(result.stdout)["engines"]["stage_0"]["how"] == "built"
    assert engines("verify", bundle).exit_code == 0


def test_prune_removes_what_nobody_can_use(bundle):
    folder = place(bundle)
    (folder / "stage_9-0123456789abcdef.plan").write_bytes(b"old")
    (folder / ".partial-stage_1.plan").write_bytes(b"half")
    shutil.copy(folder / "stage_1.json", folder / "stage_9.json")
    flip_a_byte(bundle)
    result = engines("prune", bundle)
    assert result.exit_code == 0
    left = EngineFolder(Bundle.open(bundle), "tensorrt-rtx")
    assert "stage_0" not in left.graphs()
    assert left.unclaimed() == []
    assert len(left.graphs()) == count(bundle) - 1
    assert engines("verify", bundle).exit_code == 0
    engines("prune", bundle, "--all")
    assert left.graphs() == []
    assert not list(folder.glob("*.plan"))


def test_the_cache_keeps_to_its_size(tmp_path):
    cache = EngineCache(tmp_path / "cache", max_bytes=250)
    specs = []
    for number in range(4):
        spec = EngineSpec(
            f"{number}" * 64, "float16", Machine("tensorrt-rtx", "1", "", ()), (), {}
        )
        plan = tmp_path / f"{number}.plan"
        plan.write_bytes(bytes([number]) * 100)
        record = EngineRecord(
            graph="embed",
            spec=spec,
            plan_file="embed-x.plan",
            plan_sha256=sha256_of(plan),
            plan_bytes=100,
            weight_bytes=0,
            activation_bytes=0,
            scratch_bytes=0,
            attention="",
            peak_bytes=0,
            build_ms=1,
            num_layers=1,
            arguments=(),
        )
        cache.put(record, plan)
        specs.append(spec)
        assert cache.size_bytes() <= 250
    assert [cache.take(spec, "embed", tmp_path / "out") is not None for spec in specs] == [
        False,
        False,
        True,
        True,
    ]
    assert cache.shrink(0) == 200
    assert list(cache.path.iterdir()) == []
