"""`calibrate budget` on a tiny bundle: the files, the split, resuming, every refusal."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

from sparsevlm_ops.schedule import Schedule
from sparsevlm_trt.calibration.cli import calibrate
from sparsevlm_trt.runtime import Session
from sparsevlm_trt.runtime.cli import main
from sparsevlm_trt.runtime.schedule_file import ScheduleFile


@pytest.fixture(scope="module")
def asked(tmp_path_factory, bundle_of, questions):
    """The calibration questions, answered by the unpruned model itself: it has all right."""
    lines = [json.loads(line) for line in questions.read_text().splitlines()]
    with Session.load(bundle_of()) as session:
        for line in lines:
            content = [{"type": "image"}, {"type": "text", "text": line["question"]}]
            line["image"] = str(questions.parent / line["image"])
            answer = session.generate(
                images=[line["image"]],
                messages=[{"role": "user", "content": content}],
                method="none",
                max_new_tokens=3,
            )
            line["answers"] = [answer.text.strip() or "nothing"]
    path = tmp_path_factory.mktemp("asked") / "asked.jsonl"
    path.write_text("\n".join(map(json.dumps, lines)))
    return path


@pytest.fixture
def search(bundle_of, asked, tmp_path):
    """`sparsevlm calibrate budget BUNDLE --data ... --out tmp_path/out ...`."""

    def invoke(*options, bundle=None, data=asked):
        command = ["budget", str(bundle or bundle_of()), "--data", str(data)]
        command += ["--out", str(tmp_path / "out"), "--max-new-tokens", "3"]
        return CliRunner().invoke(calibrate, [*command, *map(str, options)])

    return invoke


def test_a_share_of_the_flops_is_kept_and_told(search, bundle_of, asked, tmp_path):
    result = search("--target-flops", 0.85)
    assert result.exit_code == 0, result.output + repr(result.exception)
    out = tmp_path / "out"
    found = json.loads((out / "results.json").read_text())["findings"]
    file = ScheduleFile.read(out / "schedule.json")
    assert set(file.schedule) <= {1, 3}
    assert found["chosen"]["schedule"]["kept"] == [list(pair) for pair in file.schedule.items()]
    compared = found["comparison"]
    assert compared["found"]["share"] <= 0.85
    assert compared["default"]["share"] == pytest.approx(compared["found"]["share"], rel=0.1)
    assert compared["difference"]["interval"]["low"] <= compared["difference"]["mean"]
    assert compared["unpruned"]["score"]["mean"] > 0.5
    assert found["ladder"][0]["role"] == "unpruned"
    page = (out / "report.html").read_text()
    assert "<svg" in page
    assert "http" not in page.replace("http://www.w3.org", "")
    assert file.spell() in result.output


def test_the_same_command_asks_nothing_again_and_finds_the_same(search, tmp_path):
    assert search("--target-flops", 0.85).exit_code == 0
    answers = (tmp_path / "out/answers.jsonl").read_text()
    first = (tmp_path / "out/results.json").read_text()
    lines = answers.splitlines(keepends=True)
    (tmp_path / "out/answers.jsonl").write_text("".join(lines[: len(lines) // 2]))
    again = search("--target-flops", 0.85, "--json")
    assert again.exit_code == 0, again.output
    said = json.loads(again.stdout.splitlines()[-1])
    assert said["schedule_file"] == str(tmp_path / "out/schedule.json")
    resumed = (tmp_path / "out/answers.jsonl").read_text()
    assert len(resumed.splitlines()) == len(lines)
    timeless = (
        _without_times(json.loads(first)),
        _without_times(json.loads((tmp_path / "out/results.json").read_text())),
    )
    assert timeless[0] == timeless[1]
    assert search("--target-flops", 0.85).exit_code == 0
    assert (tmp_path / "out/answers.jsonl").read_text() == resumed


def test_held_out_images_are_not_searched_on(search, tmp_path):
    assert search("--target-flops", 0.85).exit_code == 0
    rows = [json.loads(row) for row in (tmp_path / "out/answers.jsonl").read_text().splitlines()]
    configs = {}
    for row in rows:
        configs.setdefault(row["id"], set()).add(row["config"])
    few = [name for name, asked in configs.items() if len(asked) <= 3]
    assert len(configs) == 8
    assert len(few) == 4  # unpruned, found and default only


def test_an_accuracy_is_reached_on_the_questions_of_the_search(search, tmp_path):
    result = search("--target-accuracy", 0.5)
    if result.exit_code:  # the random model may lose all its answers at once
        assert "leaves" in str(result.exception)
        return
    found = json.loads((tmp_path / "out/results.json").read_text())["findings"]
    assert 0 < found["limit"] < 1


def test_run_and_evaluate_take_the_file(bundle_of, asked, tmp_path):
    path = tmp_path / "found.json"
    path.write_text(ScheduleFile.of("fastv", Schedule.of({3: 4}), "a test").text())
    image = json.loads(asked.read_text().splitlines()[0])["image"]
    command = ["run", str(bundle_of()), "What?", "--image", image, "--json"]
    command += ["--max-new-tokens", "2", "--schedule", str(path)]
    said = CliRunner().invoke(main, command)
    assert said.exit_code == 0, said.output
    trace = json.loads(said.stdout)["trace"]
    assert trace["method"] == "fastv"
    assert [stage["layer"] for stage in trace["stages"]] == [3]
    other = json.loads(CliRunner().invoke(main, [*command, "--method", "random"]).stdout)
    assert other["trace"]["method"] == "random"
    command = ["evaluate", str(bundle_of()), "--data", str(asked), "--limit", "2", "--json"]
    command += ["--budgets", "none", "--methods", "sparsevlm", "--schedule", str(path)]
    told = CliRunner().invoke(main, [*command, "--out", str(tmp_path / "evaluated")])
    assert told.exit_code == 0, told.output
    points = json.loads(told.stdout)["findings"]["points"]
    assert [point["label"] for point in points] == ["none", "sparsevlm 3:4"]


def test_export_takes_the_file(checkpoint_of, tmp_path):
    path = tmp_path / "found.json"
    path.write_text(ScheduleFile.of("fastv", Schedule.of({1: 9, 99: 4}), "a test").text())
    command = ["export", str(checkpoint_of("llava-llama")), str(tmp_path / "made"), "--quiet"]
    made = CliRunner().invoke(main, [*command, "--schedule", str(path)])
    assert made.exit_code == 1  # before anything slow: the model has no layer 99
    assert "6-layer model" in made.output


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("{", "got no JSON"),
        ('{"schedule": {"2": 9}}', "missing keys format_version, method, source"),
        (
            '{"format_version": 1, "method": "guess", "schedule": {"2": 0}, "source": ""}',
            "'guess'",
        ),
        ('{"format_version": 9, "method": "none", "schedule": {"2": 1}, "source": ""}', "got 9"),
        (None, "No such file"),
    ],
)
def test_a_broken_schedule_file_is_told_with_the_command_that_makes_one(
    bundle_of, tmp_path, text, told
):
    path = tmp_path / "broken.json"
    if text is not None:
        path.write_text(text)
    result = CliRunner().invoke(main, ["run", str(bundle_of()), "What?", "--schedule", str(path)])
    assert result.exit_code == 1
    assert f"schedule {path}" in result.output
    assert told in result.output
    assert "calibrate budget" in result.output
    assert "Traceback" not in result.output


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ([], "exactly one"),
        (["--target-flops", "0.5", "--target-accuracy", "0.9"], "exactly one"),
        (["--target-flops", "0"], "0<x<1"),
        (["--target-flops", "1.5"], "0<x<1"),
        (["--target-accuracy", "97"], "0<x<=1"),
        (["--target-ttft", "-5"], "x>0"),
        (["--target-flops", "0.5", "--limit", "1"], "x>=2"),
    ],
)
def test_wrong_usage(search, options, told):
    result = search(*options)
    assert result.exit_code == 2
    assert told in result.output


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--target-flops", "0.01"], "which the cheapest schedule"),
        (["--target-flops", "0.5", "--methods", "uniform,guess"], "got uniform, guess"),
        (["--target-flops", "0.5", "--methods", "sparsevlm-adaptive"], "expected of: sparsevlm"),
        (["--target-flops", "0.5", "--methods", "none"], "expected of: sparsevlm"),
    ],
)
def test_what_cannot_be_reached_or_searched_is_refused(search, options, told):
    result = search(*options)
    assert result.exit_code == 1
    assert told in str(result.exception)


def test_too_little_data_is_refused(search, asked, tmp_path):
    lines = [json.loads(line) for line in asked.read_text().splitlines()]
    one, same = tmp_path / "one.jsonl", tmp_path / "same.jsonl"
    one.write_text(json.dumps(lines[0]))
    same.write_text("\n".join(json.dumps({**lines[0], "question": q}) for q in ("a?", "b?")))
    assert "expected 2 or more" in str(search("--target-flops", 0.5, data=one).exception)
    assert "about one image" in str(search("--target-flops", 0.5, data=same).exception)


def test_an_accuracy_of_a_model_that_has_nothing_right_is_refused(search, questions):
    result = search("--target-accuracy", 0.9, data=questions)
    assert "has no question right" in str(result.exception)


def _without_times(value):
    if isinstance(value, dict):
        return {key: _without_times(item) for key, item in value.items() if key[-3:] != "_ms"}
    if isinstance(value, list):
        return [_without_times(item) for item in value]
    return value
