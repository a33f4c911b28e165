"""The rules of right and wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from sparsevlm_trt.runtime.errors import InputError
from sparsevlm_trt.runtime.evaluation.metrics import METRICS, find_metric, normalise
from sparsevlm_trt.runtime.evaluation.questions import Question

CHOICES = ("red", "blue", "a dog")


def ask(*answers, choices=()):
    return Question("q", 1, Path("a.png"), "0" * 64, "?", answers, choices=choices)


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        (" The  Cat. ", "cat"),
        ("two dogs!", "2 dogs"),
        ("Top-Left", "top-left"),
        ("\uff17", "7"),  # a full-width digit
        ("3.5", "3.5"),
        ("A", "a"),  # an article alone is an answer
        ("Stra\u00dfe", "strasse"),
        (" + ", "+"),  # nothing but punctuation stays as it is
        ("", ""),
    ],
)
def test_normalise(text, normal):
    assert normalise(text) == normal


@pytest.mark.parametrize(
    ("metric", "question", "answer", "score"),
    [
        ("exact", ask("red", "crimson"), "Crimson.", 1),
        ("exact", ask("red"), "It is red", 0),
        ("exact", ask("red"), "", 0),
        ("exact", ask("7"), "seven", 1),
        ("exact", ask("+"), "-", 0),
        ("relaxed", ask("100"), "104.9", 1),
        ("relaxed", ask("100"), "105.1", 0),
        ("relaxed", ask("$1,200"), "1250", 1),
        ("relaxed", ask("45 %"), "44%", 1),
        ("relaxed", ask("0"), "0.01", 0),
        ("relaxed", ask("0"), "0.0", 1),
        ("relaxed", ask("-10"), "-10.2", 1),
        ("relaxed", ask("red"), "Red", 1),
        ("yesno", ask("yes"), "Yes, it is.", 1),
        ("yesno", ask("no"), "There is no dog, yes?", 1),
        ("yesno", ask("no"), "Nothing", 0),
        ("choice", ask("B", choices=CHOICES), "(B) blue", 1),
        ("choice", ask("B", choices=CHOICES), "blue", 1),
        ("choice", ask("blue", choices=CHOICES), "B.", 1),
        ("choice", ask("blue", choices=CHOICES), "A", 0),
        ("choice", ask("C", choices=CHOICES), "A dog", 1),
        ("choice", ask("blue", choices=CHOICES), "D", 0),
        ("choice", ask("blue", choices=CHOICES), "Blue-ish", 0),
        ("auto", ask("blue", choices=CHOICES), "B", 1),
        ("auto", ask("no"), "No, it isn't", 1),
        ("auto", ask("red"), "No, red", 0),
    ],
)
def test_metrics(metric, question, answer, score):
    assert METRICS[metric](question, answer) == score


def test_a_metric_of_ones_own(tmp_path, monkeypatch):
    (tmp_path / "own_metric.py").write_text(
        "def half(question, answer): return 0.5\n"
        "def much(question, answer): return 7\n"
        "def fails(question, answer): raise KeyError('doc')\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    assert find_metric("own_metric:half")(ask("x"), "y") == 0.5
    with pytest.raises(InputError, match="got 7\\.0 at question q"):
        find_metric("own_metric:much")(ask("x"), "y")
    with pytest.raises(InputError, match="KeyError: 'doc' at question q"):
        find_metric("own_metric:fails")(ask("x"), "y")


@pytest.mark.parametrize("name", ["nothing", "no_such_module:x", "math:no_such", ":x", "math:"])
def test_an_unknown_metric_names_those_there_are(name):
    with pytest.raises(InputError, match="auto, exact, relaxed, yesno, choice"):
        find_metric(name)
