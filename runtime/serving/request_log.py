"""One JSON line for each request: what it cost and how it ended, not what was said."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Mapping
from typing import Any

__all__ = ["log_request", "log_to_stderr"]

_log = logging.getLogger("sparsevlm.requests")


class _JsonLines(logging.Formatter):
    """Spells a record as one JSON object."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        line = {
            "time": self.formatTime(record, "%Y-%m-%dT%H:%M:%S%z"),
            "level": record.levelname.lower(),
            "event": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line)


def log_to_stderr() -> None:
    """Write our records, and the web server's warnings, to stderr as JSON lines."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_JsonLines())
    for name, level in (
        ("sparsevlm", logging.INFO),
        ("sparsevlm_trt", logging.INFO),
        ("uvicorn", logging.WARNING),
    ):
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [handler], False
        logger.setLevel(level)


def log_request(fields: Mapping[str, Any]) -> None:
    """Write the line of one request."""
    _log.info("request", extra={"fields": dict(fields)})
