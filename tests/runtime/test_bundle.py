"""A bundle opens only if it is whole, unaltered, inside its folder, and hangs together."""

import ast
import hashlib
import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from sparsevlm_trt.runtime import bundle as bundle_module
from sparsevlm_trt.runtime.bundle import Bundle
from sparsevlm_trt.runtime.errors import BundleError
from sparsevlm_trt.runtime.integrity import CHUNK_BYTES, path_problem, sha256_of

SAMPLE = Path(__file__).parent / "samples" / "bundle.json"
WEIGHTS = b"weights of embed, tied with head"
WEIGHT_FILE = f"graphs/weights/{hashlib.sha256(WEIGHTS).hexdigest()}.bin"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A sound bundle: the sample's manifest and the files that it names."""
    root = tmp_path / "bundle"
    (root / "graphs" / "weights").mkdir(parents=True)
    (root / "processor").mkdir()
    shutil.copy(SAMPLE, root)
    for name in json.loads(SAMPLE.read_text())["graphs"]:
        (root / "graphs" / f"{name}.onnx").write_bytes(f"graph {name}".encode())
    (root / WEIGHT_FILE).write_bytes(WEIGHTS)
    (root / "processor" / "tokenizer.json").write_bytes(b"{}\n")
    return root


def edited(folder: Path, edit: Callable[[dict], object]) -> Path:
    path = folder / "bundle.json"
    plain = json.loads(path.read_text())
    edit(plain)
    path.write_text(json.dumps(plain))
    return folder


def refusal(folder: Path, verify: bool = True) -> str:
    with pytest.raises(BundleError) as caught:
        Bundle.open(folder, verify=verify)
    return str(caught.value)


def test_a_sound_bundle_opens_and_names_its_files(folder: Path) -> None:
    bundle = Bundle.open(folder)
    assert bundle.path == folder
    assert bundle.manifest.plan.boundaries == (0,)
    assert bundle.graph_path("head").read_bytes() == b"graph head"
    assert bundle.file("processor/tokenizer.json").read_bytes() == b"{}\n"
    assert bundle.has_file(WEIGHT_FILE)
    assert not bundle.has_file("processor/chat_template.jinja")
    assert bundle.processor == folder / "processor"


def test_a_moved_or_linked_bundle_opens(folder: Path, tmp_path: Path) -> None:
    moved = tmp_path / "else where"
    folder.rename(moved)
    link = tmp_path / "link"
    link.symlink_to(moved)
    assert Bundle.open(str(link)).manifest == Bundle.open(moved).manifest


def test_reports_and_engines_may_be_added(folder: Path) -> None:
    (folder / "reports").mkdir()
    (folder / "reports" / "parity.json").write_text("{}")
    (folder / "processor" / ".DS_Store").write_text("")
    Bundle.open(folder)


def test_unknown_names_are_answered_with_the_known(folder: Path) -> None:
    bundle = Bundle.open(folder)
    with pytest.raises(BundleError, match=r"no graph 'decoder' .* embed, head, prune_sparsevlm"):
        bundle.graph_path("decoder")
    with pytest.raises(BundleError, match=r"no file 'processor/x' .* processor/tokenizer.json"):
        bundle.file("processor/x")


def test_no_folder_a_file_no_manifest_not_json(folder: Path, tmp_path: Path) -> None:
    assert "no such folder" in refusal(tmp_path / "missing")
    assert "is a file" in refusal(folder / "bundle.json")
    assert "holds no bundle.json" in refusal(tmp_path)
    (folder / "bundle.json").write_text("not json")
    assert "not strict JSON" in refusal(folder)
    for said in (refusal(tmp_path / "missing"), refusal(tmp_path), refusal(folder)):
        assert said.count(" | ") == 3
        assert "\n" not in said


@pytest.mark.parametrize("name", [WEIGHT_FILE, "graphs/stage_1.onnx", "processor/tokenizer.json"])
def test_a_changed_byte_is_found_and_named(folder: Path, name: str) -> None:
    data = bytearray((folder / name).read_bytes())
    data[-1] ^= 1
    (folder / name).write_bytes(data)
    said = refusal(folder)
    assert f"{name} | altered: sha256" in said
    assert "\n" not in said
    Bundle.open(folder, verify=False)  # the size is as it was


@pytest.mark.parametrize("verify", [True, False])
def test_a_missing_and_a_truncated_file_are_told_together(folder: Path, verify: bool) -> None:
    (folder / "graphs/head.onnx").unlink()
    (folder / WEIGHT_FILE).write_bytes(WEIGHTS[:-1])
    said = refusal(folder, verify)
    assert "2 problems" in said
    assert "graphs/head.onnx | missing | expected a file of 10 bytes" in said
    assert f"{WEIGHT_FILE} | 31 bytes | expected 32 bytes" in said


def test_a_folder_or_a_pipe_in_place_of_a_file_is_refused(folder: Path) -> None:
    (folder / "graphs/head.onnx").unlink()
    (folder / "graphs/head.onnx").mkdir()
    (folder / "graphs/embed.onnx").unlink()
    os.mkfifo(folder / "graphs/embed.onnx")  # opening it would wait for ever
    said = refusal(folder)
    assert "graphs/head.onnx | is not a file" in said
    assert "graphs/embed.onnx | is not a file" in said


def test_an_unlisted_processor_file_is_refused(folder: Path) -> None:
    (folder / "processor" / "chat_template.jinja").write_text("{{ 'other' }}")
    assert "processor/chat_template.jinja | not in bundle.json" in refusal(folder)


@pytest.mark.parametrize(
    "path",
    [
        *("", "/etc/passwd", "../secret", "a/../../secret", "a/..", "./a", "a//b", "a/", "."),
        *("a\\b", "..\\secret", "C:/x", "C:x", "a\0b", "a\nb", "\ud800"),
    ],
)
def test_paths_that_could_leave_the_folder_are_refused(folder: Path, path: str) -> None:
    assert path_problem(path) is not None
    (folder.parent / "secret").write_bytes(b"graph head")
    edited(folder, lambda plain: plain["graphs"]["head"].update(file=path))
    said = refusal(folder, verify=False)
    assert f"path {path!r} |" in said


@pytest.mark.parametrize("path", ["a", "a/b.c", "graphs/weights/00.bin", "..a/b..", "é"])
def test_plain_paths_are_fine(path: str) -> None:
    assert path_problem(path) is None


@pytest.mark.parametrize("verify", [True, False])
def test_links_must_stay_inside(folder: Path, tmp_path: Path, verify: bool) -> None:
    head = folder / "graphs/head.onnx"
    inside = folder / "graphs/head.real"
    head.rename(inside)
    head.symlink_to("head.real")
    Bundle.open(folder, verify=verify)
    outside = tmp_path / "outside.onnx"
    inside.rename(outside)
    head.unlink()
    head.symlink_to(outside)
    assert "graphs/head.onnx | is a link that leaves the folder" in refusal(folder, verify)
    head.unlink()
    head.symlink_to("head.onnx")
    assert "graphs/head.onnx | cannot be read" in refusal(folder, verify)
    shutil.move(folder / "graphs", tmp_path / "graphs")
    (folder / "graphs").symlink_to(tmp_path / "graphs")
    assert f"{WEIGHT_FILE} | is a link that leaves the folder" in refusal(folder, verify)


def test_a_manifest_that_is_a_link_to_elsewhere_is_refused(folder: Path, tmp_path: Path) -> None:
    (folder / "bundle.json").rename(tmp_path / "elsewhere.json")
    (folder / "bundle.json").symlink_to(tmp_path / "elsewhere.json")
    assert "bundle.json is a link that leaves the folder" in refusal(folder)


def graph_edit(graph: str, side: str, tensor: str, **change: object) -> Callable[[dict], object]:
    def edit(plain: dict) -> None:
        for spec in plain["graphs"][graph][side]:
            if spec["name"] == tensor:
                spec.update(change)

    return edit


LINK = "links[2] stage_0.last_hidden_state -> prune_sparsevlm.hidden_states | "


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (
            graph_edit("stage_0", "outputs", "last_hidden_state", dtype="float16"),
            LINK + "gives float16 | expected float32",
        ),
        (
            graph_edit("stage_0", "outputs", "last_hidden_state", shape=["batch", 8]),
            LINK + "gives [batch, 8] | expected rank 3",
        ),
        (
            graph_edit("stage_0", "outputs", "last_hidden_state", shape=["batch", "seq_len", 9]),
            LINK + "gives [batch, seq_len, 9] | expected [batch, seq_len, 8]",
        ),
        (
            graph_edit("stage_0", "outputs", "last_hidden_state", name="hidden"),
            LINK + "graph stage_0 has no output last_hidden_state | its outputs are hidden, ",
        ),
        (
            lambda plain: plain["links"].append({"from": "stage_9.x", "to": "head"}),
            "links[9] stage_9.x -> head | no graph stage_9 | the graphs are embed, head, ",
        ),
        (
            lambda plain: plain["links"].append({"from": "stage_9.x", "to": "head"}),
            "links[9] stage_9.x -> head | got 'head' | expected GRAPH.TENSOR",
        ),
        (lambda plain: plain["links"].append(plain["links"][0]), "the same link twice"),
        (
            lambda plain: plain["stages"][1].update(first=2),
            "stages[1] | got layers 2 to 3 (exclusive) | expected to start at 1",
        ),
        (lambda plain: plain["stages"][1].update(stop=1), "hold at least one layer"),
        (lambda plain: plain["stages"].pop(), "stages | end before layer 1 | expected to cover 3"),
        (lambda plain: plain.update(stages=[]), "stages | got none | expected"),
        (
            lambda plain: plain["stages"][1].update(graph="stage_7"),
            "stages[1].graph | no graph stage_7 | the graphs are embed",
        ),
        (lambda plain: plain["stages"][1].update(graph="stage_0"), "stands for several stages"),
        (
            lambda plain: plain["model"].update(num_deepstack=2),
            "stages[0] | ends before layer 1 | expected to hold the 2 layers that the vision",
        ),
        (
            lambda plain: plain["plan"].update(boundaries=[0, 1]),
            "plan.boundaries | got [0, 1] | expected the last layers of all stages but the last",
        ),
        (
            lambda plain: plain["plan"].update(methods=["sparsevlm", "other"]),
            "plan.methods other | no graph prune_other",
        ),
        (lambda plain: plain["graphs"].pop("vision"), "vision | no graph vision"),
        (
            lambda plain: plain["files"].pop(WEIGHT_FILE),
            f"graphs[embed].weights | {WEIGHT_FILE} | expected a file listed in files",
        ),
        (
            lambda plain: plain["files"][WEIGHT_FILE].update(sha256="0" * 64),
            f"files[{WEIGHT_FILE}] | sha256 000000000000... | expected the one it is named by",
        ),
        (
            lambda plain: plain["graphs"]["head"].update(file="graphs/embed.onnx"),
            "graphs[head].file | graphs/embed.onnx has two hashes | expected one",
        ),
    ],
)
def test_graphs_that_do_not_hang_together_are_refused(
    folder: Path, edit: Callable[[dict], object], said: str
) -> None:
    assert said in refusal(edited(folder, edit), verify=False)


def test_a_named_dim_takes_any_size(folder: Path) -> None:
    edit = graph_edit("stage_1", "inputs", "hidden_states", shape=["rows", 12, "width"])
    Bundle.open(edited(folder, edit))


def test_wiring_and_files_are_told_in_one_error(folder: Path) -> None:
    edited(folder, lambda plain: plain["stages"][1].update(graph="stage_7"))
    (folder / "graphs/head.onnx").unlink()
    said = refusal(folder)
    assert "2 problems" in said
    assert "stages[1].graph" in said
    assert "graphs/head.onnx | missing" in said


def test_many_problems_are_cut_short(folder: Path) -> None:
    bad = [{"from": f"no_{number}.x", "to": "head.hidden_states"} for number in range(50)]
    said = refusal(edited(folder, lambda plain: plain.update(links=bad)))
    assert "50 problems" in said
    assert said.endswith("and 30 more")


@pytest.mark.parametrize("size", [0, 1, CHUNK_BYTES, 2 * CHUNK_BYTES + 1])
def test_hashing_goes_by_chunks(tmp_path: Path, size: int) -> None:
    data = os.urandom(size)
    (tmp_path / "data").write_bytes(data)
    assert sha256_of(tmp_path / "data") == hashlib.sha256(data).hexdigest()


def imported(path: Path) -> set[str]:
    """The modules that a file imports, wherever in it."""
    nodes = list(ast.walk(ast.parse(path.read_text())))
    plain = {name.name for node in nodes if isinstance(node, ast.Import) for name in node.names}
    return plain | {str(node.module) for node in nodes if isinstance(node, ast.ImportFrom)}


def test_the_reader_needs_only_the_standard_library() -> None:
    package = "sparsevlm_trt.runtime."
    seen: set[str] = set()
    todo = [package + "bundle"]
    while todo:
        module = todo.pop()
        seen.add(module)
        path = Path(bundle_module.__file__).with_name(f"{module.removeprefix(package)}.py")
        ours = {name for name in imported(path) if name.startswith(package)}
        todo += ours - seen
        others = {name.partition(".")[0] for name in imported(path) - ours}
        assert others <= sys.stdlib_module_names, module
    assert {package + "manifest", package + "integrity", package + "wiring"} <= seen
