"""What the parser and the builder say: errors to tell, and the memory figures in their log."""

from __future__ import annotations

import re
from typing import Any

__all__ = ["BuilderFigures", "make_log"]

_MESSAGE_LENGTH = 300  # characters
# Each error brings a second one about the missing driver, on a host without a GPU.
_NO_DRIVER = "cudaError 35"
_PATTERNS = {
    "scratch_bytes": re.compile(r"Scratch Memory: (\d+) bytes"),
    "activation_bytes": re.compile(r"Total Activation Memory: (\d+) bytes"),
    "weight_bytes": re.compile(r"Total Weights Memory: (\d+) bytes"),
}


class BuilderFigures:
    """Collects a log as it is written, without keeping its tens of thousands of lines.

    Attributes:
        errors: Errors, in order.
        warnings: Warnings, each once.
    """

    def __init__(self) -> None:
        """Start empty."""
        self.errors: list[str] = []
        self.warnings: list[str] = []
        self._figures: dict[str, int] = {}

    def take(self, severity: str, message: str) -> None:
        """Read one line.

        Args:
            severity: INTERNAL_ERROR, ERROR, WARNING, INFO or VERBOSE.
            message: The line.
        """
        if "ERROR" in severity and _NO_DRIVER not in message:
            self.errors.append(" ".join(message.split())[:_MESSAGE_LENGTH])
        elif severity == "WARNING" and message not in self.warnings:
            self.warnings.append(message)
        for name, pattern in _PATTERNS.items():
            for number in pattern.findall(message):
                self._figures[name] = max(self._figures.get(name, 0), int(number))

    def figure(self, name: str) -> int:
        """The largest value of a figure (`scratch_bytes`, ...); 0 where the log has none."""
        return self._figures.get(name, 0)


def make_log(trt: Any, figures: BuilderFigures) -> Any:
    """Make a logger of the library that feeds `figures`."""

    class Log(trt.ILogger):  # type: ignore[misc]
        """Passes every line on."""

        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, message: str) -> None:
            figures.take(severity.name, message)

    return Log()
