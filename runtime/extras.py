"""Parts of the program that need more than the base install, named by strings."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from sparsevlm_trt.runtime.errors import SparseVLMError

__all__ = ["MissingPackageError", "load_attribute", "pip_command"]

DISTRIBUTION = "sparsevlm-trt"
_OURS = ("sparsevlm_trt", "sparsevlm_ops")


class MissingPackageError(SparseVLMError):
    """A part of the program needs packages that are not installed, or do not load."""


def pip_command(extra: str | None) -> str:
    """Spell the command that installs an extra; None: the base install."""
    return f"pip install '{DISTRIBUTION}[{extra}]'" if extra else f"pip install {DISTRIBUTION}"


def load_attribute(target: str, *, extra: str | None, who: str) -> Any:
    """Import `module:name`.

    Args:
        target: Where it is.
        extra: The extra whose packages the module needs; None: those of the base install.
        who: Who needs it, for the error.

    Raises:
        MissingPackageError: A package of the extra is not installed, or does not load.
    """
    module, _, name = target.partition(":")
    try:
        return getattr(import_module(module), name)
    except ImportError as error:
        if (error.name or "").partition(".")[0] in _OURS:
            raise  # our own mistake
        wanted = f"the {extra} extra" if extra else "the base install"
        raise MissingPackageError(
            f"{who} | {error} | expected the packages of {wanted} | {pip_command(extra)}"
        ) from error
