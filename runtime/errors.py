"""The errors a user can meet, one sentence each: where | got | expected | what to do."""

from __future__ import annotations

__all__ = [
    "BundleError",
    "EngineError",
    "ExportError",
    "InputError",
    "ParityError",
    "PlanError",
    "RunnerError",
    "SparseVLMError",
]


class SparseVLMError(Exception):
    """Base of every error that has a remedy; the command line prints it without a traceback."""


class BundleError(SparseVLMError):
    """The bundle on disk is missing, incomplete, altered, or of another version."""


class PlanError(SparseVLMError):
    """A budget, schedule or method that this model or bundle cannot follow."""


class InputError(SparseVLMError):
    """A prompt, image or option that cannot be used as given."""


class RunnerError(SparseVLMError):
    """An inference engine is missing, cannot load a graph, or failed while running one."""


class EngineError(SparseVLMError):
    """An engine that cannot be built, or that does not fit this bundle, library or GPU."""


class ExportError(SparseVLMError):
    """A checkpoint that cannot be turned into a bundle."""


class ParityError(SparseVLMError):
    """A comparison that cannot be made (the comparison's own verdict is not an error)."""
