"""What the chain asks of an inference engine, and the registry of those there are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import import_module
from types import TracebackType
from typing import Any, Protocol, cast, runtime_checkable

from numpy.typing import DTypeLike, NDArray

from sparsevlm_trt.runtime.bundle import Bundle
from sparsevlm_trt.runtime.device_array import Tensor
from sparsevlm_trt.runtime.errors import RunnerError

__all__ = ["RUNNERS", "Array", "Runner", "Tensor", "open_runner"]

Array = NDArray[Any]

# Name -> where its class lives; imported when opened, so that an engine nobody asks for costs
# nothing and need not be installed.
RUNNERS: dict[str, str] = {
    "onnxruntime": "sparsevlm_trt.runtime.ort:OnnxRuntimeRunner",
    "tensorrt": "sparsevlm_trt.runtime.tensorrt.runner:TensorRtRunner",
    "tensorrt-rtx": "sparsevlm_trt.runtime.tensorrt.runner:TensorRtRtxRunner",
    "openvino": "sparsevlm_trt.runtime.openvino.runner:OpenVinoRunner",
}


@runtime_checkable
class Runner(Protocol):
    """An engine that holds a bundle's graphs and runs them by name.

    It takes numpy arrays, and its own arrays if it computes in other memory than the host's: then
    its outputs are such arrays too, and `np.asarray` fetches those that the host must read.

    Attributes:
        name: Its name in `RUNNERS`.
        device: Where it computes, e.g. "cpu" or "cuda".
    """

    name: str
    device: str

    def load(self, bundle: Bundle, graphs: Sequence[str]) -> None:
        """Make these graphs of the bundle ready to run.

        Raises:
            RunnerError: The engine cannot load one of them; the sentence names it.
        """

    def empty(self, shape: Sequence[int], dtype: DTypeLike, /) -> Tensor:
        """Reserve an array where the engine computes; what it holds is undefined."""

    def run(
        self, graph: str, inputs: Mapping[str, Tensor], into: Mapping[str, Tensor] | None = None
    ) -> dict[str, Tensor]:
        """Run one loaded graph.

        Args:
            graph: Its name in the bundle.
            inputs: All its inputs, by name; those on a device without gaps.
            into: C-contiguous arrays of the exact shape and dtype of some outputs. Those outputs
                are written there and nowhere else. They must not overlap an input.

        Returns:
            All outputs by name; those of `into` are the very arrays given.

        Raises:
            RunnerError: The graph is not loaded, or the engine failed; the sentence names it.
        """

    def close(self) -> None:
        """Free the graphs; a second call does nothing."""

    def __enter__(self) -> Runner:
        """Return the runner itself."""

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close."""


def open_runner(name: str, **options: Any) -> Runner:
    """Open an engine by name.

    Args:
        name: One of `RUNNERS`.
        options: What that engine's class takes, e.g. `providers` or `threads`.

    Raises:
        RunnerError: The name or an option is unknown, or the engine is not installed.
    """
    if name not in RUNNERS:
        raise RunnerError(
            f"runner | got {name!r} | expected one of: {', '.join(sorted(RUNNERS))} | "
            "name one of them"
        )
    module, _, attribute = RUNNERS[name].partition(":")
    try:
        return cast("Runner", getattr(import_module(module), attribute)(**options))
    except TypeError as error:
        raise RunnerError(
            f"runner {name} | got options {sorted(options)} | {error} | leave the unknown one out"
        ) from error
