"""A set of questions: JSON lines, read strictly, every broken line told by its number."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sparsevlm_trt.runtime.errors import InputError
from sparsevlm_trt.runtime.problems import told_at_once
from sparsevlm_trt.runtime.strict_json import decode, parse_json

__all__ = ["BrokenLine", "Question", "QuestionSet", "read_questions"]

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
OPTIONAL = ("kind", "region", "choices", "id")
BOM = b"\xef\xbb\xbf"  # some editors begin a file with it


@dataclass(frozen=True, slots=True)
class _Line:
    """One line as it is written."""

    image: str
    question: str
    answers: tuple[str, ...]
    kind: str | None
    region: tuple[int, int, int, int] | None
    choices: tuple[str, ...] | None
    id: str | None

    def problems(self, _: str) -> Iterator[str]:
        """Say what the types alone do not."""
        if not self.question.strip():
            yield "question | got an empty text | expected a question"
        if not any(answer.strip() for answer in self.answers):
            yield "answers | got none | expected one or more accepted answers"
        if self.choices is not None and not 2 <= len(self.choices) <= len(LETTERS):
            yield f"choices | got {len(self.choices)} | expected 2 to {len(LETTERS)}"
        if self.region is not None:
            left, top, right, bottom = self.region
            if not (0 <= left < right and 0 <= top < bottom):
                yield (
                    f"region | got {list(self.region)} | expected [left, top, right, bottom] in "
                    "pixels, left < right and top < bottom"
                )


@dataclass(frozen=True, slots=True)
class Question:
    """One question about one image.

    Attributes:
        id: Its name in all reports, unique in the set.
        line: Its line in the file, from 1.
        image: The image's file.
        image_sha256: The hash of that file.
        text: The question.
        answers: Accepted answers, one or more.
        kind: Questions of one kind are also scored apart; empty for none.
        region: The part of the image that it is about, (left, top, right, bottom) in pixels.
        choices: The answers to choose from, A first; empty for an open question.
    """

    id: str
    line: int
    image: Path
    image_sha256: str
    text: str
    answers: tuple[str, ...]
    kind: str = ""
    region: tuple[int, int, int, int] | None = None
    choices: tuple[str, ...] = ()

    def asked(self, suffix: str = "") -> str:
        """The text that the model reads: the question, its choices by letter, the suffix."""
        lettered = zip(LETTERS, self.choices, strict=False)
        choices = [f"{letter}. {choice}" for letter, choice in lettered]
        return "\n".join([self.text, *choices, *([suffix] if suffix else [])])

    def messages(self, suffix: str = "") -> list[dict[str, Any]]:
        """The question about its image as a conversation; see `asked`."""
        content = [{"type": "image"}, {"type": "text", "text": self.asked(suffix)}]
        return [{"role": "user", "content": content}]


@dataclass(frozen=True, slots=True)
class BrokenLine:
    """A line that cannot be asked, and why."""

    line: int
    problem: str


@dataclass(frozen=True, slots=True)
class QuestionSet:
    """The questions of a file.

    Attributes:
        name: The file's name, without folder and ending.
        sha256: The hash of the file.
        questions: Those that can be asked, in the order of the file.
        broken: Those that cannot.
    """

    name: str
    sha256: str
    questions: tuple[Question, ...]
    broken: tuple[BrokenLine, ...]


def read_questions(
    path: Path, *, skip_broken: bool = False, limit: int | None = None
) -> QuestionSet:
    """Read a file of questions, one JSON object a line; empty lines are left out.

    Args:
        path: The file; the paths of its images count from its folder.
        skip_broken: Leave broken lines out instead of refusing the file.
        limit: Stop after so many good questions.

    Raises:
        InputError: No such file, no question in it, or (unless skipped) all its broken lines.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(
            f"data {path} | {error.strerror} | expected a file of questions | check the path"
        ) from error
    questions: list[Question] = []
    broken: list[BrokenLine] = []
    lines_of: dict[str, int] = {}
    hashes: dict[Path, str] = {}
    for number, raw in enumerate(content.removeprefix(BOM).split(b"\n"), 1):
        if limit is not None and len(questions) == limit:
            break
        if not raw.strip():
            continue
        question, problems = _read_line(raw, number, path.parent, hashes)
        if question is not None and question.id in lines_of:
            earlier = lines_of[question.id]
            problems = [f"id {question.id!r} | is that of line {earlier} too | expected its own"]
        if question is None or problems:
            broken.append(BrokenLine(number, "; ".join(problems)))
            continue
        lines_of[question.id] = number
        questions.append(question)
    if broken and not skip_broken:
        told = [f"line {line.line} | {line.problem}" for line in broken]
        raise InputError(
            told_at_once(f"data {path}", told, "mend what is broken, or skip it: --on-error skip")
        )
    if not questions:
        first = f" (line {broken[0].line}: {broken[0].problem})" if broken else ""
        raise InputError(
            f"data {path} | got no question that can be asked{first} | expected one JSON object "
            "a line | see docs/evaluate.md"
        )
    digest = hashlib.sha256(content).hexdigest()
    return QuestionSet(path.stem, digest, tuple(questions), tuple(broken))


def _read_line(
    raw: bytes, number: int, folder: Path, hashes: dict[Path, str]
) -> tuple[Question | None, Sequence[str]]:
    """Read one line; the second part tells all that is wrong with it."""
    try:
        value = parse_json(raw)
    except ValueError as error:
        return None, [f"got no JSON ({error}) | expected one object"]
    problems: list[str] = []
    if isinstance(value, dict):
        value = {**dict.fromkeys(OPTIONAL), **value}
    line: _Line = decode(_Line, value, "", problems)
    if problems:
        return None, problems
    image = folder / line.image
    if image not in hashes:
        try:
            hashes[image] = hashlib.sha256(image.read_bytes()).hexdigest()
        except OSError as error:
            return None, [f"image {line.image} | {error.strerror} | expected a file"]
    question = Question(
        id=line.id or f"line {number}",
        line=number,
        image=image,
        image_sha256=hashes[image],
        text=line.question,
        answers=line.answers,
        kind=line.kind or "",
        region=line.region,
        choices=line.choices or (),
    )
    return question, ()
