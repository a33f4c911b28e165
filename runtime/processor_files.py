"""Read the files of a checkpoint's processor, kept verbatim in a bundle's `processor/` folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from sparsevlm_trt.runtime.errors import BundleError

__all__ = ["read_json_object", "read_text"]


def read_text(folder: str | Path, name: str) -> str | None:
    """Read a UTF-8 text file, or None where there is none.

    Raises:
        BundleError: It cannot be read.
    """
    path = Path(folder, name)
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise BundleError(
            f"{path} | got {error} | expected UTF-8 text | export the bundle again"
        ) from error


def read_json_object(folder: str | Path, name: str) -> dict[str, Any] | None:
    """Read a JSON object, or None where there is no such file.

    Raises:
        BundleError: It cannot be read, or is not a JSON object.
    """
    text = read_text(folder, name)
    if text is None:
        return None
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise BundleError(
            f"{Path(folder, name)} | got {error} | expected JSON | export the bundle again"
        ) from error
    if not isinstance(value, dict):
        raise BundleError(
            f"{Path(folder, name)} | got {type(value).__name__} | expected a JSON object "
            "| export the bundle again"
        )
    return value
