from __future__ import annotations

import json
import zipfile
from pathlib import Path

import pytest
from easy_vqa_questions import TEST, kind_of, write_questions

from sparsevlm_trt.runtime.evaluation.questions import read_questions

ASKED = [
    ["what is the red shape?", "triangle", 0],
    ["what color is the shape?", "red", 0],
    ["is there a circle?", "no", 1],
]


@pytest.fixture
def wheel(tmp_path: Path) -> Path:
    path = tmp_path / "easy.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"{TEST}/questions.json", json.dumps(ASKED))
        for image in (0, 1):
            archive.writestr(f"{TEST}/images/{image}.png", f"picture {image}")
    return path


def test_all_questions_come_out_as_evaluate_reads_them(wheel: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert write_questions(wheel, out, 0, 0) == 3
    records = [json.loads(line) for line in (out / "questions.jsonl").read_text().splitlines()]
    assert [record["question"] for record in records] == [
        "What is the red shape?",
        "What color is the shape?",
        "Is there a circle?",
    ]
    assert [record["answers"] for record in records] == [["triangle"], ["red"], ["no"]]
    assert (out / "1.png").read_bytes() == b"picture 1"
    assert len(read_questions(out / "questions.jsonl").questions) == 3


def test_a_draw_is_repeatable_and_has_no_question_twice(wheel: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        assert write_questions(wheel, tmp_path / name, 2, 5) == 2
    first, again = (
        (tmp_path / name / "questions.jsonl").read_text().splitlines() for name in ("a", "b")
    )
    assert first == again
    assert len(set(first)) == 2


def test_kinds_follow_the_answers() -> None:
    assert [kind_of(answer) for answer in ("circle", "teal", "no")] == ["shape", "color", "yes/no"]
