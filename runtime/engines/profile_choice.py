"""Which profile takes the shapes of a call, and what to say where none does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sparsevlm_trt.runtime.engines.profiles import Profile, Range
from sparsevlm_trt.runtime.errors import RunnerError

__all__ = ["choose_profile"]

_SEES = ("vision", "video")  # the graphs that images go into
_TOKEN_LIMITS = "(--max-prompt, --max-new-tokens, --max-batch, --max-images)"
_IMAGE_LIMITS = (
    "(--max-images, --max-image-pixels where images keep their size), or give fewer or smaller "
    "images"
)


def choose_profile(
    graph: str,
    profiles: Sequence[Profile],
    shapes: Mapping[str, tuple[int, ...]],
    command: str,
) -> int:
    """Choose the narrowest profile that takes a call.

    Args:
        graph: The graph's name, for the error.
        profiles: Of its engine; the last is the narrowest.
        shapes: Of each input (or the values, where the input is a size).
        command: What compiles the bundle.

    Raises:
        RunnerError: None does; the sentence names the input and the bound.
    """
    for index in reversed(range(len(profiles))):
        if all(_inside(profiles[index][name], shape) for name, shape in shapes.items()):
            return index
    name = next(name for name, shape in shapes.items() if not _inside(profiles[0][name], shape))
    one = profiles[0][name]
    raise RunnerError(
        f"graph {graph} | input {name}: got {list(shapes[name])} | expected {list(one.min)} to "
        f"{list(one.max)}, what its engine was built for | {command} with larger limits "
        f"{_IMAGE_LIMITS if graph in _SEES else _TOKEN_LIMITS}"
    )


def _inside(one: Range, shape: tuple[int, ...]) -> bool:
    return len(shape) == len(one.min) and all(
        low <= size <= high for low, size, high in zip(one.min, shape, one.max, strict=True)
    )
