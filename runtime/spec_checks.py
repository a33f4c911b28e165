"""What no part of a manifest can be: each check yields a sentence for every problem."""

from __future__ import annotations

import re
from collections.abc import Iterator

from sparsevlm_trt.runtime.strict_json import encode

__all__ = ["hash_problems", "one_of", "positive", "repeats"]

SHA256 = re.compile(r"[0-9a-f]{64}")


def one_of(where: str, got: str, expected: tuple[str, ...]) -> Iterator[str]:
    """Say that a word is none of those expected."""
    if got not in expected:
        yield f"{where} | got {got!r} | expected one of {', '.join(expected)}"


def repeats(where: str, names: list[str]) -> Iterator[str]:
    """Say which names stand more than once."""
    for name in sorted({name for name in names if names.count(name) > 1}):
        yield f"{where} | {name!r} more than once | expected each name once"


def hash_problems(where: str, sha256: str, size_bytes: int) -> Iterator[str]:
    """Say what no hash or size of a file can be."""
    if not SHA256.fullmatch(sha256):
        yield f"{where}.sha256 | got {sha256[:70]!r} | expected 64 hexadecimal digits"
    if size_bytes < 0:
        yield f"{where}.size_bytes | got {size_bytes} | expected 0 or more"


def positive(where: str, spec: object, but: tuple[str, ...] = ()) -> Iterator[str]:
    """Say which sizes of a spec are too small: below 1, or below 0 for those named in `but`."""
    for name, value in encode(spec).items():
        sizes = value if isinstance(value, list) else [value]
        least = 0 if name in but else 1
        if any(type(size) is int and size < least for size in sizes):
            yield f"{where}.{name} | got {value} | expected {least} or more"
