"""The reader of question sets: what it takes, and what it says of broken lines."""

from __future__ import annotations

import json

import pytest
from PIL import Image

from sparsevlm_trt.runtime.errors import InputError
from sparsevlm_trt.runtime.evaluation.questions import read_questions

GOOD = {"image": "a.png", "question": "What is red?", "answers": ["7"]}


@pytest.fixture
def write(tmp_path):
    """Write lines, dicts or raw text, beside an image `a.png`; return the file."""

    def write(*lines):
        Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
        path = tmp_path / "data.jsonl"
        texts = [line if isinstance(line, str) else json.dumps(line) for line in lines]
        path.write_text("\n".join(texts) + "\n", encoding="utf-8")
        return path

    return write


def test_all_fields(write, tmp_path):
    line = GOOD | {"kind": "color", "region": [1, 2, 3, 4], "choices": ["7", "8"], "id": "q"}
    (question,) = read_questions(write(line)).questions
    assert (question.id, question.line, question.kind) == ("q", 1, "color")
    assert question.image == tmp_path / "a.png"
    assert (question.region, question.choices) == ((1, 2, 3, 4), ("7", "8"))


def test_what_is_left_out_has_a_default_and_empty_lines_count(write):
    found = read_questions(write(GOOD, "", GOOD))
    assert [question.id for question in found.questions] == ["line 1", "line 3"]
    assert [question.kind for question in found.questions] == ["", ""]
    assert found.name == "data"


def test_a_byte_order_mark_is_no_problem(write):
    path = write(GOOD)
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert len(read_questions(path).questions) == 1


BROKEN = [
    ("{", "got no JSON"),
    ("[1]", "expected an object"),
    ({"image": "a.png", "question": "?"}, "missing keys answers"),
    (GOOD | {"answer": "7"}, "unknown keys answer"),
    (GOOD | {"answers": "7"}, "answers | got"),
    (GOOD | {"answers": []}, "answers | got none"),
    (GOOD | {"question": " "}, "question | got an empty text"),
    (GOOD | {"choices": ["one"]}, "choices | got 1 | expected 2 to 26"),
    (GOOD | {"region": [3, 0, 1, 4]}, "left < right"),
    (GOOD | {"image": "b.png"}, "image b.png | No such file"),
]


@pytest.mark.parametrize(("line", "problem"), BROKEN)
def test_a_broken_line_is_told_by_its_number_or_skipped(write, line, problem):
    path = write(GOOD, line, GOOD)
    with pytest.raises(InputError, match="line 2") as caught:
        read_questions(path)
    assert problem in str(caught.value)
    found = read_questions(path, skip_broken=True)
    assert [question.line for question in found.questions] == [1, 3]
    assert [(one.line, problem in one.problem) for one in found.broken] == [(2, True)]


def test_all_broken_lines_are_told_at_once(write):
    with pytest.raises(InputError) as caught:
        read_questions(write("{", GOOD, "{", GOOD | {"id": "line 2"}))
    told = str(caught.value)
    assert "line 1" in told
    assert "line 3" in told
    assert "line 4 | id 'line 2' | is that of line 2 too" in told
    assert "--on-error skip" in told


def test_a_file_without_a_good_line_is_refused_even_when_skipping(write):
    with pytest.raises(InputError, match="no question that can be asked"):
        read_questions(write("{"), skip_broken=True)
    with pytest.raises(InputError, match="no question that can be asked"):
        read_questions(write(""))


def test_a_missing_file(tmp_path):
    with pytest.raises(InputError, match="No such file"):
        read_questions(tmp_path / "none.jsonl")


def test_the_limit_counts_good_lines(write):
    found = read_questions(write("{", GOOD, GOOD, "{"), skip_broken=True, limit=1)
    assert [question.line for question in found.questions] == [2]
    assert [one.line for one in found.broken] == [1]


def test_what_the_model_reads(write):
    (question,) = read_questions(write(GOOD | {"choices": ["red", "blue"]})).questions
    assert question.asked() == "What is red?\nA. red\nB. blue"
    assert question.asked("In one word.") == "What is red?\nA. red\nB. blue\nIn one word."
