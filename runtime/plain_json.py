"""Results and reports as plain JSON values."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["plain_from"]


def plain_from(value: Any) -> Any:
    """Turn a value into what the `json` module writes.

    Dataclasses and mappings become objects, arrays and tuples lists, paths texts, and numbers that
    JSON has no word for (infinities, not-a-number) null.

    Raises:
        TypeError: Some part is of another type.
    """
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, (np.ndarray, np.generic)):
        return plain_from(value.tolist())
    if isinstance(value, Path):
        return str(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = dataclasses.fields(value)
        return {field.name: plain_from(getattr(value, field.name)) for field in fields}
    if isinstance(value, Mapping):
        return {str(key): plain_from(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain_from(item) for item in value]
    raise TypeError(f"{type(value).__name__} is no plain value")
