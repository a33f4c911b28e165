"""Typed values of an image processor's file, read so that all that is wrong is told at once."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from PIL import Image

__all__ = ["Size", "ValueReader"]


@dataclass(frozen=True, slots=True)
class Size:
    """A target size in pixels: both sides, or the shorter side with the aspect kept.

    Attributes:
        height: Pixels down; with `shortest`, the shorter side whichever it is.
        width: Pixels across; with `shortest`, equal to `height`.
        shortest: Keep the aspect ratio.
    """

    height: int
    width: int
    shortest: bool = False

    def of(self, width: int, height: int) -> tuple[int, int]:
        """Give the new (width, height) of an image."""
        if not self.shortest:
            return self.width, self.height
        longer = int(self.height * max(width, height) / min(width, height))
        return (self.height, longer) if width <= height else (longer, self.height)


class ValueReader:
    """Reads typed values from a file's content and keeps every problem it meets.

    Attributes:
        config: The content, defaults filled in.
        problems: `key value` of each that cannot be followed; something harmless stood in for it.
    """

    def __init__(self, config: Mapping[str, Any]) -> None:
        """Take the content in; nothing is read yet."""
        self.config = config
        self.problems: list[str] = []

    def has(self, key: str) -> bool:
        """Tell whether a key says anything."""
        return self.config[key] is not None

    def flag(self, key: str) -> bool:
        """Read true or false."""
        value = self.config[key]
        if not isinstance(value, bool):
            self._note(key)
        return value is True

    def number(self, key: str) -> float:
        """Read a finite number."""
        value = self.config[key]
        if _is_number(value):
            return float(value)
        self._note(key)
        return 1.0

    def count(self, key: str, value: object, default: int) -> int:
        """Take a value found elsewhere as a number above zero; None is the default."""
        if value is None:
            return default
        if _is_edge(value):
            return int(value)  # type: ignore[call-overload,no-any-return]
        self.problems.append(f"{key} {value!r}")
        return default

    def channels(self, key: str) -> tuple[float, ...]:
        """Read a number for each of three channels, or one for all."""
        value = self.config[key]
        listed = [value] * 3 if _is_number(value) else value
        sound = isinstance(listed, (list, tuple)) and all(map(_is_number, listed))
        if not sound or len(listed) != 3 or (key == "image_std" and 0 in listed):
            self._note(key)
            return (1.0, 1.0, 1.0)
        return tuple(float(one) for one in listed)

    def resample(self, key: str) -> Image.Resampling:
        """Read one of Pillow's filters."""
        try:
            return Image.Resampling(self.config[key])
        except ValueError:
            self._note(key)
            return Image.Resampling.BICUBIC

    def size(self, key: str, *, square: bool) -> Size:
        """Read a size in any of its spellings; a single number is both sides where `square`."""
        value = self.config[key]
        if isinstance(value, int):
            value = {"height": value, "width": value} if square else {"shortest_edge": value}
        elif isinstance(value, (list, tuple)) and len(value) == 2:
            value = {"height": value[0], "width": value[1]}
        edges = dict(value) if isinstance(value, Mapping) else {}
        keys = {name for name, edge in edges.items() if edge is not None}
        if all(_is_edge(edges[name]) for name in keys):
            if keys == {"height", "width"}:
                return Size(edges["height"], edges["width"])
            if keys == {"shortest_edge"} and key == "size":
                return Size(edges["shortest_edge"], edges["shortest_edge"], shortest=True)
        self._note(key)
        return Size(1, 1)

    def _note(self, key: str) -> None:
        self.problems.append(f"{key} {self.config[key]!r}")


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _is_edge(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0
