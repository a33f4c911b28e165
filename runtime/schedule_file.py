"""A schedule in a file: what `calibrate budget` writes, and every `--schedule` takes."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from sparsevlm_ops.methods import METHODS
from sparsevlm_ops.schedule import Schedule
from sparsevlm_trt.runtime.errors import InputError
from sparsevlm_trt.runtime.problems import told_at_once
from sparsevlm_trt.runtime.strict_json import decode, json_text, parse_json

__all__ = ["ScheduleFile", "find_schedule_file"]

FORMAT_VERSION = 1
ENDING = ".json"  # text that ends so is meant to be a file
_REMEDY = "make one with sparsevlm calibrate budget, or spell a schedule like 2:300,6:200,15:110"


@dataclass(frozen=True, slots=True)
class ScheduleFile:
    """A schedule and where it comes from.

    Attributes:
        format_version: Of this file.
        method: The method that it was found for.
        schedule: `{pruning layer: tokens kept}`.
        source: How it was found.
    """

    format_version: int
    method: str
    schedule: Mapping[int, int]
    source: str

    def problems(self, _: str) -> Iterator[str]:
        """Say what the types alone do not."""
        if self.format_version != FORMAT_VERSION:
            yield f"format_version | got {self.format_version} | expected {FORMAT_VERSION}"
        if self.method not in METHODS:
            yield f"method | got {self.method!r} | expected one of: {', '.join(METHODS)}"
        try:
            Schedule.of(self.schedule)
        except ValueError as error:  # the arithmetic's own sentence is complete
            yield str(error)

    @classmethod
    def of(cls, method: str, schedule: Schedule, source: str) -> ScheduleFile:
        """Make the file of a schedule."""
        return cls(FORMAT_VERSION, method, schedule.as_dict(), source)

    @classmethod
    def read(cls, path: Path) -> ScheduleFile:
        """Read a file.

        Raises:
            InputError: It cannot be read, or is no such file; all that is wrong is told.
        """
        problems: list[str] = []
        try:
            found: ScheduleFile = decode(cls, parse_json(path.read_bytes()), "", problems)
        except OSError as error:
            problems.append(f"{error.strerror} | expected a file")
        except ValueError as error:
            problems.append(f"got no JSON ({error}) | expected one object")
        if problems:
            raise InputError(told_at_once(f"schedule {path}", problems, _REMEDY))
        return found

    def spell(self) -> str:
        """Spell the schedule, `2:300,6:200,15:110`."""
        return Schedule.of(self.schedule).spell()

    def text(self) -> str:
        """Spell the file."""
        return json_text(
            {
                "format_version": self.format_version,
                "method": self.method,
                "schedule": {str(layer): count for layer, count in self.schedule.items()},
                "source": self.source,
            }
        )


def find_schedule_file(text: str) -> ScheduleFile | None:
    """Read the file that an option names; None where the text is a schedule itself.

    Raises:
        InputError: A file that cannot be read, is broken, or is not there.
    """
    # Not Path.exists: what no path can be, too long a text say, is an error there.
    if text.endswith(ENDING) or os.path.exists(text):
        return ScheduleFile.read(Path(text))
    return None
