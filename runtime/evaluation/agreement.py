"""How often two answer files say the same: two machines, two precisions, or a reference."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sparsevlm_trt.runtime.errors import InputError
from sparsevlm_trt.runtime.evaluation.answers import Answer
from sparsevlm_trt.runtime.evaluation.intervals import Interval, wilson

__all__ = ["Agreement", "AgreementShare", "Disagreement", "agree"]


@dataclass(frozen=True, slots=True)
class AgreementShare:
    """How often two files give the same text in one configuration.

    Attributes:
        config: The configuration's label.
        num: Questions that both have answered.
        equal: Of these, answered alike.
        share: `equal / num`.
        interval: Its Wilson interval.
    """

    config: str
    num: int
    equal: int
    share: float
    interval: Interval


@dataclass(frozen=True, slots=True)
class Disagreement:
    """A question that two files answer differently.

    Attributes:
        id: The question.
        config: The configuration's label.
        ours: Our answer.
        theirs: The other file's.
        token: The first token that differs, from 0; None where the other file has no tokens.
        margin: By how much our logit of it was above the next one: near zero is a tie.
    """

    id: str
    config: str
    ours: str
    theirs: str
    token: int | None
    margin: float | None


@dataclass(frozen=True, slots=True)
class Agreement:
    """What two answer files have in common.

    Attributes:
        other: The other file's name.
        shares: One for each configuration.
        num_alone: Our answers that the other file lacks.
        differences: All that differ.
    """

    other: str
    shares: tuple[AgreementShare, ...]
    num_alone: int
    differences: tuple[Disagreement, ...]


def agree(answers: Iterable[tuple[str, str, Answer]], path: Path) -> Agreement:
    """Compare answers with those of another file, question by question.

    Args:
        answers: (question id, configuration label, answer) of ours.
        path: JSON lines with `id`, `config`, `text`, and maybe `tokens`; a question's last line
            counts.

    Raises:
        InputError: The file cannot be read, or has no answer in common.
    """
    theirs = _read(path)
    compared: dict[str, list[bool]] = {}
    differences, num_alone = [], 0
    for name, config, ours in answers:
        row = theirs.get((name, config))
        if row is None:
            num_alone += 1
            continue
        same = ours.text.strip() == row["text"].strip()
        compared.setdefault(config, []).append(same)
        if not same:
            differences.append(_difference(name, config, ours, row))
    if not compared:
        raise InputError(
            f"answers {path} | no id and config in common with this evaluation | expected those "
            "of the same data and budgets | give the answers.jsonl of such a run"
        )
    shares = tuple(
        AgreementShare(
            config, len(same), sum(same), sum(same) / len(same), wilson(sum(same), len(same))
        )
        for config, same in compared.items()
    )
    return Agreement(path.name, shares, num_alone, tuple(differences))


def _difference(name: str, config: str, ours: Answer, row: Mapping[str, Any]) -> Disagreement:
    tokens = row.get("tokens")
    place = None
    if isinstance(tokens, list):
        pairs = zip(ours.tokens, tokens, strict=False)
        alike = min(len(ours.tokens), len(tokens))
        place = next((i for i, (our, their) in enumerate(pairs) if our != their), alike)
    margin = ours.margins[place] if place is not None and place < len(ours.margins) else None
    return Disagreement(name, config, ours.text, row["text"], place, margin)


def _read(path: Path) -> dict[tuple[str, str], Mapping[str, Any]]:
    """Read an answer file, ours or a reference's."""
    found: dict[tuple[str, str], Mapping[str, Any]] = {}
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"answers {path} | {error} | expected a file of answers | check the path"
        ) from error
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            found[str(row["id"]), str(row["config"])] = {**row, "text": str(row["text"])}
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(
                f"answers {path} line {number} | {type(error).__name__}: {error} | expected "
                "id, config and text | mend the line"
            ) from error
    return found
