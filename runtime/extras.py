"""Parts of the program that need more than the base install, named by strings."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from typing import Any

from sparsevlm_trt.runtime.errors import SparseVLMError

__all__ = ["MissingPackageError", "load_attribute", "pip_command"]

DISTRIBUTION = "sparsevlm-trt"
_OURS = ("sparsevlm_trt", "sparsevlm_ops")
_EXPORT = ("onnx", "onnx_ir", "onnxscript", "polygraphy", "safetensors", "torch", "transformers")
# The modules that a command of an extra imports, some of them only once it is under way.
_SERVE = ("fastapi", "httpx", "prometheus_client", "uvicorn")
_TENSORRT = ("polygraphy",)
_MODULES = {
    "export": _EXPORT,
    "demo": _EXPORT,
    "serve": _SERVE,
    "tensorrt": _TENSORRT,
    "video": ("av",),
}


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
    absent = [module for module in _MODULES.get(extra or "", ()) if find_spec(module) is None]
    if absent:
        raise _missing(who, f"No module named {', '.join(absent)}", extra)
    module, _, name = target.partition(":")
    try:
        return getattr(import_module(module), name)
    except ImportError as error:
        if (error.name or "").partition(".")[0] in _OURS:
            raise  # our own mistake
        raise _missing(who, str(error), extra) from error


def _missing(who: str, reason: str, extra: str | None) -> MissingPackageError:
    """Say what to install."""
    wanted = f"the {extra} extra" if extra else "the base install"
    return MissingPackageError(
        f"{who} | {reason} | expected the packages of {wanted} | {pip_command(extra)}"
    )
