"""`sparsevlm evaluate` on a tiny bundle: resuming, scoring, what it writes."""

from __future__ import annotations

import csv
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from html.parser import HTMLParser

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from sparsevlm_trt.runtime import Session
from sparsevlm_trt.runtime.bundle import Bundle
from sparsevlm_trt.runtime.cli import main
from sparsevlm_trt.runtime.errors import InputError
from sparsevlm_trt.runtime.evaluation.answers import Answer, AnswerFile
from sparsevlm_trt.runtime.evaluation.asking import ask
from sparsevlm_trt.runtime.evaluation.configs import UNPRUNED, plan_configs
from sparsevlm_trt.runtime.evaluation.decisions import record_from_trace, trace_from_record
from sparsevlm_trt.runtime.evaluation.job import Settings
from sparsevlm_trt.runtime.evaluation.questions import read_questions

SCHEDULES = ["--budgets", "none", "--schedule", "1:9,3:5", "--schedule", "1:3"]
SWEEP = ["--methods", "sparsevlm", *SCHEDULES, "--max-new-tokens", "6"]
NUM_QUESTIONS, NUM_CONFIGS = 6, 3


@pytest.fixture(scope="module")
def data(tmp_path_factory, bundle_of):
    """Six questions of two kinds; the unpruned model has the even ones right, by construction."""
    folder = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    lines = []
    with Session.load(bundle_of()) as session:
        for number in range(NUM_QUESTIONS):
            name = f"{number}.png"
            pixels = rng.integers(0, 255, (70, 90, 3), np.uint8)
            Image.fromarray(pixels).save(folder / name)
            text = f"What is in picture {number}?"
            content = [{"type": "image"}, {"type": "text", "text": text}]
            answer = session.generate(
                images=[folder / name],
                messages=[{"role": "user", "content": content}],
                method="none",
                max_new_tokens=6,
            ).text
            right = number % 2 == 0
            line = {
                "image": name,
                "question": text,
                "answers": [answer if right else "nothing of the kind"],
                "kind": "even" if right else "odd",
                "region": [10, 10, 40, 40],
            }
            lines.append(json.dumps(line))
    path = folder / "questions.jsonl"
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture
def invoke(bundle_of, data, tmp_path):
    """`sparsevlm evaluate BUNDLE --data ... --out tmp_path/out ...`."""

    def invoke(*args, questions=data):
        out = ["--data", str(questions), "--out", str(tmp_path / "out")]
        return CliRunner().invoke(main, ["evaluate", str(bundle_of()), *out, *args])

    return invoke


@pytest.fixture(scope="module")
def made(tmp_path_factory, bundle_of, data):
    """The answers of the whole sweep."""
    out = tmp_path_factory.mktemp("made")
    command = ["evaluate", str(bundle_of()), "--data", str(data), "--out", str(out), *SWEEP]
    result = CliRunner().invoke(main, command)
    assert result.exit_code == 0, result.output
    return out / "answers.jsonl"


@pytest.fixture
def swept(made, tmp_path):
    """The folder of a finished sweep: the command has only to read and report."""
    out = tmp_path / "out"
    out.mkdir()
    shutil.copy(made, out)
    return out


@pytest.fixture
def literal(tmp_path, monkeypatch):
    """The option of a metric of one's own: letter by letter, so that the tiny model flips."""
    code = "def literal(question, answer): return float(answer in question.answers)\n"
    (tmp_path / "literal_metric.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "literal_metric", raising=False)
    return ["--metric", "literal_metric:literal"]


def rows_of(folder):
    return [json.loads(line) for line in (folder / "answers.jsonl").read_text().splitlines()]


def timeless(rows):
    return [{k: v for k, v in row.items() if not k.endswith("_ms")} for row in rows]


def test_a_whole_evaluation(invoke, tmp_path):
    result = invoke(*SWEEP)
    assert result.exit_code == 0, result.output
    out = tmp_path / "out"
    rows = rows_of(out)
    labels = ["none", "sparsevlm 1:9,3:5", "sparsevlm 1:3"]
    assert [(row["id"], row["config"]) for row in rows] == [
        (f"line {line}", label) for line in range(1, NUM_QUESTIONS + 1) for label in labels
    ]
    found = json.loads((out / "results.json").read_text())["findings"]
    unpruned, *pruned = found["points"]
    assert (found["num_questions"], unpruned["score"]["mean"]) == (6, 0.5)
    assert unpruned["kinds"]["even"]["mean"] == 1
    assert unpruned["average_tokens"] == 16
    # 16 tokens in layer 0; 9 and 1 merged in 1 and 2; 5 and 1 merged in 3 to 5.
    assert pruned[0]["average_tokens"] == pytest.approx((16 + 2 * 10 + 3 * 6) / 6)
    for point in pruned:
        assert point["kv_bytes"] < unpruned["kv_bytes"]
        assert point["prefill_flops"] < unpruned["prefill_flops"]
        versus = point["versus_unpruned"]
        flips = [flip for flip in found["flips"] if flip["config"] == point["label"]]
        assert len(flips) == versus["only_first"] + versus["only_second"]
        assert point["retained"] == pytest.approx(point["score"]["mean"] / 0.5)
    assert "unpruned" not in result.stderr
    assert str(out / "report.html") in result.stdout


def test_the_image_is_seen_once_and_a_pruned_answer_is_the_sessions_own(bundle_of, data):
    question = read_questions(data).questions[0]
    bundle = Bundle.open(bundle_of(), verify=False)
    configs = plan_configs(bundle.manifest, ["sparsevlm"], [None], ["1:9,3:5", "1:3"])
    settings = Settings("0" * 64, max_new_tokens=6)
    with Session.load(bundle_of()) as session:
        seen, run = [], session.runner.run
        session.runner.run = lambda graph, *args: (seen.append(graph), run(graph, *args))[1]
        answers = list(ask(session, question, configs, settings, {}))
        assert seen.count("vision") == 1
        content = [{"type": "image"}, {"type": "text", "text": question.text}]
        alone = session.generate(
            images=[question.image],
            messages=[{"role": "user", "content": content}],
            schedule="1:9,3:5",
            max_new_tokens=6,
        )
    assert [answer.config for answer in answers] == [config.label for config in configs]
    pruned = answers[1]
    assert (pruned.text, list(pruned.tokens)) == (alone.text, alone.tokens)
    assert pruned.kv_bytes == alone.trace.kv_bytes_total
    assert pruned.stages == ((1, 16, 10), (3, 10, 6))
    best = np.sort(alone.prefill_logits)[-2:]
    assert pruned.margins[0] == pytest.approx(float(best[1] - best[0]), abs=1e-5)
    assert len(pruned.margins) == len(pruned.tokens)


def test_losses_are_of_the_unpruned_answer_up_to_the_first_other_token(bundle_of, data):
    question = read_questions(data).questions[1]
    configs = plan_configs(Bundle.open(bundle_of()).manifest, ["sparsevlm"], [None], ["1:1,3:1"])
    with Session.load(bundle_of()) as session:
        known = {}
        for answer in ask(session, question, configs, Settings("0", max_new_tokens=6), known):
            known[answer.key] = answer
        unpruned, pruned = known.values()
        content = [{"type": "image"}, {"type": "text", "text": question.text}]
        alone = session.generate(
            images=[question.image],
            messages=[{"role": "user", "content": content}],
            schedule="1:1,3:1",
        )
    same = [ours == theirs for ours, theirs in zip(pruned.tokens, unpruned.tokens, strict=True)]
    assert len(unpruned.losses) == len(unpruned.tokens)
    assert len(pruned.losses) == [*same, False].index(False) + 1 - all(same)
    odds = np.exp(alone.prefill_logits.astype(np.float64))
    expected = -np.log(odds[unpruned.tokens[0]] / odds.sum())
    assert pruned.losses[0] == pytest.approx(expected, abs=1e-4)


def test_answers_of_an_earlier_version_are_read_without_their_losses(made):
    row = rows_of(made.parent)[0]
    del row["losses"]
    assert Answer.from_json(row).losses is None


def test_decisions_survive_the_file(bundle_of, data):
    with Session.load(bundle_of()) as session:
        trace = session.generate(
            images=[read_questions(data).questions[0].image],
            prompt="<image> what",
            max_new_tokens=1,
        ).trace
    back = trace_from_record(json.loads(json.dumps(record_from_trace(trace))))
    assert (back.method, back.grid, back.num_visual) == (trace.method, trace.grid, 16)
    for ours, theirs in zip(back.stages, trace.stages, strict=True):
        assert ours.layer == theirs.layer
        for name in ("kept", "scores", "merge_candidates", "patches"):
            found, wanted = getattr(ours, name), getattr(theirs, name)
            assert found.dtype == wanted.dtype
            np.testing.assert_array_equal(found, wanted)


def test_a_kill_costs_no_answer(invoke, bundle_of, data, made, tmp_path):
    expected = timeless(rows_of(made.parent))
    out = tmp_path / "killed"
    answers = out / "answers.jsonl"
    command = [sys.executable, "-m", "sparsevlm_trt.runtime.cli", "evaluate", str(bundle_of())]
    command += ["--data", str(data), "--out", str(out), *SWEEP]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not (answers.exists() and answers.read_bytes().count(b"\n") >= 4):
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.001)
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    kept = answers.read_bytes()
    num_kept = kept.count(b"\n")
    assert 4 <= num_kept < NUM_QUESTIONS * NUM_CONFIGS
    with answers.open("ab") as file:
        file.write(b'{"key": "half a li')
    resumed = invoke(*SWEEP, "--out", str(out))
    assert resumed.exit_code == 0, resumed.output
    whole_lines = kept[: kept.rfind(b"\n") + 1]
    assert answers.read_bytes().startswith(whole_lines), "an answer was lost or made again"
    assert timeless(rows_of(out)) == expected
    assert f"{num_kept} answers are here already." in resumed.stderr


def test_a_finished_evaluation_loads_no_model(invoke, swept, monkeypatch):
    monkeypatch.setattr(Session, "load", lambda *_, **__: pytest.fail("loaded"))
    before = (swept / "answers.jsonl").read_bytes()
    again = invoke(*SWEEP)
    assert again.exit_code == 0, again.output
    assert (swept / "answers.jsonl").read_bytes() == before


@pytest.mark.usefixtures("swept")
def test_corrected_data_is_scored_anew_and_asked_no_more(invoke, data, tmp_path, monkeypatch):
    monkeypatch.setattr(Session, "load", lambda *_, **__: pytest.fail("loaded"))
    lines = [json.loads(line) for line in data.read_text().splitlines()]
    for line in lines:
        line |= {"answers": ["no such answer"], "image": str(data.parent / line["image"])}
    changed = tmp_path / "changed.jsonl"
    changed.write_text("\n".join(map(json.dumps, lines)))
    result = invoke(*SWEEP, "--json", questions=changed)
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)["findings"]
    assert [point["score"]["mean"] for point in found["points"]] == [0, 0, 0]
    assert found["points"][1]["retained"] is None


@pytest.mark.parametrize(
    "change", [["--max-new-tokens", "5"], ["--suffix", "In one word."], ["--seed", "1"]]
)
def test_another_option_is_another_answer(invoke, tmp_path, change):
    args = ["--budgets", "none", "--limit", "1", "--max-new-tokens", "6"]
    for extra in ([], change):
        assert invoke(*args, *extra).exit_code == 0
    assert len(rows_of(tmp_path / "out")) == 2


def test_a_broken_image_is_told_or_skipped(invoke, data, tmp_path):
    (tmp_path / "bad.png").write_bytes(b"no image")
    lines = [json.loads(line) for line in data.read_text().splitlines()[:2]]
    for line in lines:
        line["image"] = str(data.parent / line["image"])
    broken = {"image": "bad.png", "question": "?", "answers": ["x"]}
    questions = tmp_path / "questions.jsonl"
    questions.write_text("\n".join(map(json.dumps, [lines[0], broken, lines[1]])))
    result = invoke(*SWEEP, questions=questions)
    assert result.exit_code == 1
    assert "data line 2 | image" in result.stderr
    assert "--on-error skip" in result.stderr
    result = invoke(*SWEEP, "--on-error", "skip", "--json", questions=questions)
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)["findings"]
    assert found["num_questions"] == 2
    assert [line["line"] for line in found["broken"]] == [2]


def test_one_process_at_a_time(invoke, tmp_path):
    with AnswerFile(tmp_path / "out/answers.jsonl"):
        result = invoke(*SWEEP)
    assert result.exit_code == 1
    assert "another evaluation writes it" in result.stderr


def test_a_full_disk_costs_the_last_answer_only(made, tmp_path):
    first, second, *_ = map(Answer.from_json, rows_of(made.parent))
    path = tmp_path / "answers.jsonl"
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    with AnswerFile(path) as file:
        file.append(first)
        resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 10, limits[1]))
        try:
            with pytest.raises(InputError, match="give the same command again"):
                file.append(second)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    with AnswerFile(path) as file:
        assert list(file.answers) == [first.key]
        file.append(second)
    with AnswerFile(path) as file:
        assert file.answers == {first.key: first, second.key: second}


@pytest.mark.usefixtures("swept")
def test_a_foreign_line_is_refused_by_its_number(invoke, tmp_path):
    path = tmp_path / "out/answers.jsonl"
    path.write_text('{"id": 3}\n' + path.read_text())
    result = invoke(*SWEEP)
    assert result.exit_code == 1
    assert "line 1 | KeyError" in result.stderr


@pytest.mark.usefixtures("swept")
def test_csv_and_json_agree(invoke, tmp_path):
    assert invoke(*SWEEP).exit_code == 0
    points = json.loads((tmp_path / "out/results.json").read_text())["findings"]["points"]
    with (tmp_path / "out/results.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == NUM_CONFIGS * 3  # all, even, odd
    for row in rows:
        point = next(point for point in points if point["label"] == row["config"])
        score = point["score"] if row["kind"] == "all" else point["kinds"][row["kind"]]
        assert int(row["questions"]) == score["num"]
        assert float(row["score"]) == score["mean"]
        assert float(row["score_low"]) == score["interval"]["low"]
        if row["kind"] == "all":
            for name in ("average_tokens", "prefill_flops", "kv_bytes", "first_token_ms"):
                assert float(row[name]) == point[name]
            assert row["retained"] == ("" if point["retained"] is None else str(point["retained"]))


class Page(HTMLParser):
    """Checks that tags close, and remembers addresses and pictures."""

    VOID = frozenset({"meta", "img", "line", "rect", "circle", "polyline", "polygon"})

    def __init__(self):
        super().__init__()
        self.open, self.sources, self.tags = [], [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.sources += [v for k, v in attrs if k in ("src", "href", "data", "xlink:href")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


@pytest.mark.usefixtures("swept")
def test_the_page_needs_nothing_else(invoke, literal, tmp_path):
    assert invoke(*SWEEP, *literal).exit_code == 0
    text = (tmp_path / "out/report.html").read_text(encoding="utf-8")
    page = Page()
    page.feed(text)
    assert page.open == []
    assert "http" not in text
    assert "script" not in page.tags
    assert "link" not in page.tags
    assert page.tags.count("svg") >= 4 + 2
    flips = json.loads((tmp_path / "out/results.json").read_text())["findings"]["flips"]
    assert flips, "the tiny model must flip somewhere for this test to mean anything"
    assert len(page.sources) == len(flips)
    assert all(source.startswith("data:image/png;base64,") for source in page.sources)


@pytest.mark.usefixtures("swept")
def test_pictures_are_as_many_as_asked_for(invoke, literal, tmp_path):
    assert invoke(*SWEEP, *literal, "--pictures", "0").exit_code == 0
    text = (tmp_path / "out/report.html").read_text(encoding="utf-8")
    assert "data:image" not in text
    flips = json.loads((tmp_path / "out/results.json").read_text())["findings"]["flips"]
    assert text.count(">lost</td>") + text.count(">gained</td>") == len(flips) > 0


def test_text_of_the_data_is_escaped(invoke, data, tmp_path):
    line = json.loads(data.read_text().splitlines()[0])
    line |= {"image": str(data.parent / line["image"]), "kind": "<b>", "question": "<script>?"}
    other = line | {"kind": "&", "id": "<i>"}
    questions = tmp_path / "questions.jsonl"
    questions.write_text(json.dumps(line) + "\n" + json.dumps(other))
    assert invoke(*SWEEP, questions=questions).exit_code == 0
    text = (tmp_path / "out/report.html").read_text(encoding="utf-8")
    assert "<script>" not in text
    assert "<i>" not in text
    assert "&lt;b&gt;" in text
    assert len(rows_of(tmp_path / "out")) == NUM_CONFIGS, "the same question is asked once"


@pytest.mark.usefixtures("swept")
def test_agreement_with_another_file(invoke, tmp_path):
    rows = rows_of(tmp_path / "out")
    rows[0]["text"] += " other"
    rows[0]["tokens"][2] += 1
    theirs = [{k: row[k] for k in ("id", "config", "text", "tokens")} for row in rows[:-1]]
    other = tmp_path / "reference.jsonl"
    other.write_text("\n".join(map(json.dumps, theirs)))
    result = invoke(*SWEEP, "--agree-with", str(other), "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)["agreement"]
    assert [(share["equal"], share["num"]) for share in found["shares"]] == [
        (5, 6),
        (6, 6),
        (5, 5),
    ]
    assert found["num_alone"] == 1
    (difference,) = found["differences"]
    assert (difference["token"], difference["config"]) == (2, "none")
    assert difference["margin"] == rows[0]["margins"][2]
    other.write_text('{"id": "x", "config": "none", "text": ""}')
    result = invoke(*SWEEP, "--agree-with", str(other))
    assert result.exit_code == 1
    assert "no id and config in common" in result.stderr


@pytest.mark.parametrize(
    ("args", "code", "told"),
    [
        (["--methods", "nonsense", "--budgets", "64"], 1, "expected one of this bundle's"),
        (["--budgets", "64,many"], 2, "neither a whole number nor none"),
        (["--budgets", "192"], 1, "prunes nothing"),
        (["--schedule", "2"], 1, "LAYER:COUNT"),
        (["--budgets", ","], 1, "got no budget and no schedule"),
        (["--metric", "best"], 1, "auto, exact"),
    ],
)
def test_what_cannot_be_is_told_before_the_model_loads(invoke, monkeypatch, args, code, told):
    monkeypatch.setattr(Session, "load", lambda *_, **__: pytest.fail("loaded"))
    result = invoke(*args)
    assert result.exit_code == code, result.output
    assert told in result.stderr


def test_without_budgets_a_bundle_is_swept_as_far_as_it_can(invoke, tmp_path):
    result = invoke("--limit", "1", "--max-new-tokens", "2")
    assert result.exit_code == 0, result.output
    labels = [row["config"] for row in rows_of(tmp_path / "out")]
    assert labels[:2] == [UNPRUNED.label, "sparsevlm default"]
