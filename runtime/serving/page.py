"""The page that the server shows to a browser, and what it may do there."""

from __future__ import annotations

import base64
import hashlib
import re
from importlib.resources import files

__all__ = ["page_and_policy"]


def page_and_policy() -> tuple[str, str]:
    """Return the page, and a Content-Security-Policy that runs its own script and no other."""
    text = files(__package__).joinpath("page.html").read_text(encoding="utf-8")
    script, style = (_hash_of(text, tag) for tag in ("script", "style"))
    policy = (
        f"default-src 'none'; script-src {script}; style-src {style}; img-src data:; "
        "connect-src 'self'; form-action 'none'; base-uri 'none'; frame-ancestors 'none'"
    )
    return text, policy


def _hash_of(text: str, tag: str) -> str:
    """Spell the hash of the one element `tag`, as the policy names it."""
    (body,) = re.findall(f"<{tag}>(.*?)</{tag}>", text, re.DOTALL)
    digest = hashlib.sha256(body.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"
