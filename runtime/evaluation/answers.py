"""The file of answers: one JSON line each, only ever appended to, so that a kill loses nothing."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import time
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, fields
from io import FileIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparsevlm_trt.runtime.closing import Closing
from sparsevlm_trt.runtime.errors import InputError
from sparsevlm_trt.runtime.plain_json import plain_from

__all__ = ["Answer", "AnswerFile", "answer_key", "margins_of"]

SYNC_SECONDS = 5.0  # what a loss of power may cost; a killed process loses nothing


@dataclass(frozen=True, slots=True)
class Answer:
    """One question answered in one configuration.

    Attributes:
        key: What it depends on, hashed; see `answer_key`.
        id: The question.
        config: The configuration's label.
        text: The answer.
        tokens: Its tokens.
        margins: For each token, by how much its logit was above the next one.
        finish_reason: "stop" or "length".
        num_visual: Visual tokens before the first layer.
        num_text: All other tokens of the prompt.
        stages: (pruning layer, visual tokens in, visual tokens out) of each prune step.
        kv_bytes: Bytes of keys and values at the end.
        read_ms: Tokenizer, preprocessing, embedding and vision; the same run serves all
            configurations of a question.
        prefill_ms: The language model's prefill, to the first logits.
        decode_ms: All decode steps together.
        decisions: What was dropped, where the text is not the unpruned model's; else None.
        losses: Negative log-probability of each token of the unpruned answer, up to the first one
            that was answered differently; None where nothing was asked unpruned.
    """

    key: str
    id: str
    config: str
    text: str
    tokens: tuple[int, ...]
    margins: tuple[float, ...]
    finish_reason: str
    num_visual: int
    num_text: int
    stages: tuple[tuple[int, int, int], ...]
    kv_bytes: int
    read_ms: float
    prefill_ms: float
    decode_ms: float
    decisions: Mapping[str, Any] | None
    losses: tuple[float, ...] | None = None

    @property
    def first_token_ms(self) -> float:
        """From the question to the first token."""
        return self.read_ms + self.prefill_ms

    @classmethod
    def from_json(cls, row: Mapping[str, Any]) -> Answer:
        """Read one line; KeyError or TypeError where it is no answer."""
        made = {
            field.name: row[field.name]
            for field in fields(cls)
            if field.default is MISSING or field.name in row
        }
        for name in ("tokens", "margins"):
            made[name] = tuple(made[name])
        if made.get("losses") is not None:
            made["losses"] = tuple(made["losses"])
        made["stages"] = tuple((layer, before, after) for layer, before, after in made["stages"])
        return cls(**made)


def answer_key(**parts: object) -> str:
    """Hash what an answer depends on: bundle, image, text, method, schedule, engine, options."""
    spelled = json.dumps(plain_from(parts), sort_keys=True)
    return hashlib.sha256(spelled.encode()).hexdigest()[:32]


def margins_of(logits: NDArray[np.float32]) -> tuple[float, ...]:
    """By how much each token's logit, the best of `[tokens, vocab]`, was above the next one."""
    best = np.partition(logits, -2, axis=1)
    return tuple(round(float(margin), 5) for margin in best[:, -1] - best[:, -2])


class AnswerFile(Closing):
    """The answers there are, by key; it belongs to one process at a time.

    Attributes:
        answers: All answers of the file.
    """

    def __init__(self, path: Path) -> None:
        """Open the file, or begin one; a last line that a kill cut short is dropped.

        Raises:
            InputError: Another process writes it, it cannot be written, or a line is broken.
        """
        self._path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file: FileIO = path.open("a+b", buffering=0)
        except OSError as error:
            raise InputError(
                f"answers {path} | {error.strerror} | expected a folder to write into | "
                "choose another one: --out DIR"
            ) from error
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self.answers = self._read()
        except BlockingIOError as error:
            self._file.close()
            raise InputError(
                f"answers {path} | another evaluation writes it | expected to be alone | "
                "wait for it, or choose another folder: --out DIR"
            ) from error
        except BaseException:
            self._file.close()
            raise
        self._synced = time.monotonic()

    def append(self, answer: Answer) -> None:
        """Write an answer; it survives a kill from here on.

        Raises:
            InputError: The disk is full, or failed.
        """
        row = {**asdict(answer), "decisions": answer.decisions}
        line = json.dumps(row, ensure_ascii=True).encode("ascii") + b"\n"
        try:
            while line:  # a disk that fills up takes a part first; what it took is dropped later
                line = line[self._file.write(line) :]
        except OSError as error:
            raise InputError(
                f"answers {self._path} | {error.strerror} | expected room for an answer | make "
                "room and give the same command again: it goes on from here"
            ) from error
        self.answers[answer.key] = answer
        if time.monotonic() - self._synced > SYNC_SECONDS:
            self._sync()

    def close(self) -> None:
        """Bring all to the disk."""
        if not self._file.closed:
            self._sync()
            self._file.close()

    def _sync(self) -> None:
        os.fsync(self._file.fileno())
        self._synced = time.monotonic()

    def _read(self) -> dict[str, Answer]:
        self._file.seek(0)
        content = self._file.read()
        whole = content[: content.rfind(b"\n") + 1]
        if len(whole) < len(content):
            self._file.truncate(len(whole))
        found: dict[str, Answer] = {}
        for number, line in enumerate(whole.splitlines(), 1):
            try:
                answer = Answer.from_json(json.loads(line))
            except (ValueError, KeyError, TypeError) as error:
                raise InputError(
                    f"answers {self._path} line {number} | {type(error).__name__}: {error} | "
                    "expected an answer of this version | delete the line to ask again, or choose "
                    "another folder: --out DIR"
                ) from error
            found[answer.key] = answer
        return found
