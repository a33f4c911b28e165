"""Several problems told as one error, so that nobody mends a file one key at a time."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["told_at_once"]

MAX_TOLD = 20  # a manifest of another program would fill a screen; the first lines tell enough


def told_at_once(where: str, problems: Sequence[str], remedy: str) -> str:
    """Spell problems as one message: a sentence for one, a list for more.

    Args:
        where: The file or folder they are about.
        problems: One sentence each, `place | got | expected`.
        remedy: What to do about them all.
    """
    if len(problems) == 1:
        return f"{where} | {problems[0]} | {remedy}"
    told = [f"  - {problem}" for problem in problems[:MAX_TOLD]]
    if len(problems) > MAX_TOLD:
        told.append(f"  - and {len(problems) - MAX_TOLD} more")
    return "\n".join([f"{where} | {len(problems)} problems | {remedy}:", *told])
