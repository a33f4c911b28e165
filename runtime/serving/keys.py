"""API keys, kept as hashes: who reads the file can ask nothing with it."""

from __future__ import annotations

import hashlib
import hmac
import re
from dataclasses import dataclass
from pathlib import Path

from sparsevlm_trt.runtime.errors import InputError

__all__ = ["KeyRing"]

_LINE = re.compile(r"([A-Za-z0-9._@-]{1,64})\s+([0-9a-f]{64})")


@dataclass(frozen=True, slots=True)
class KeyRing:
    """Names by the SHA-256 of their key.

    Keys are random, not passwords, so that a plain hash cannot be turned round.
    """

    names: dict[str, str]

    @classmethod
    def open(cls, path: Path) -> KeyRing:
        """Read a file of lines `NAME SHA256`; empty lines and those that begin with # are skipped.

        Raises:
            InputError: It cannot be read, or a line is of another form.
        """
        try:
            lines = path.read_text(encoding="ascii").splitlines()
        except (OSError, UnicodeError) as error:
            raise InputError(
                f"keys {path} | got {error} | expected a readable file | give another one"
            ) from error
        names: dict[str, str] = {}
        for number, line in enumerate(lines, 1):
            text = line.strip()
            if not text or text.startswith("#"):
                continue
            found = _LINE.fullmatch(text)
            if found is None:
                raise InputError(
                    f"keys {path} | got line {number} of another form | expected NAME SHA256 | "
                    "make the hash with: printf %s KEY | sha256sum"
                )
            names[found[2]] = found[1]
        if not names:
            raise InputError(f"keys {path} | got no key | expected one or more | add a line")
        return cls(names)

    def name_of(self, key: str) -> str | None:
        """Return whose key it is; None for one that is not known."""
        digest = hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()
        found = None
        for known, name in self.names.items():  # all of them: the time tells nothing
            if hmac.compare_digest(known, digest):
                found = name
        return found
