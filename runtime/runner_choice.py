"""Which engine `--runner auto` takes on this machine, and why not the others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from sparsevlm_trt.runtime.bundle import Bundle
from sparsevlm_trt.runtime.errors import RunnerError
from sparsevlm_trt.runtime.gpu import read_gpus
from sparsevlm_trt.runtime.runner import Runner, open_runner

__all__ = ["AUTO", "Candidate", "candidates", "load_best"]

AUTO = "auto"
_CUDA = "CUDAExecutionProvider"


@dataclass(frozen=True, slots=True)
class Candidate:
    """An engine in the order of preference.

    Attributes:
        name: Its name in `RUNNERS`.
        options: What its class takes.
        problem: Why it is out of the question here; None where it may be tried.
    """

    name: str
    options: dict[str, Any] = field(default_factory=dict)
    problem: str | None = None

    @property
    def label(self) -> str:
        """Its name, and what sets it apart from another of that name."""
        return f"{self.name} on CUDA" if "providers" in self.options else self.name


def candidates(threads: int | None = None) -> tuple[Candidate, ...]:
    """List engines, the fastest first: TensorRT, ONNX Runtime on CUDA, OpenVINO, ONNX Runtime.

    Args:
        threads: Processor threads, for those that compute there.
    """
    no_gpu = read_gpus().problem
    on_cpu: dict[str, Any] = {} if threads is None else {"threads": threads}
    return (
        Candidate("tensorrt", problem=no_gpu),
        Candidate("tensorrt-rtx", problem=no_gpu),
        Candidate("onnxruntime", {"providers": [_CUDA]}, no_gpu or _cuda_problem()),
        Candidate("openvino", on_cpu, _openvino_problem()),
        Candidate("onnxruntime", on_cpu),
    )


def load_best(
    bundle: Bundle, graphs: Sequence[str], threads: int | None = None, **options: Any
) -> tuple[Runner, list[str]]:
    """Open the first engine that loads a bundle.

    Args:
        bundle: The bundle; TensorRT needs engines built from it.
        graphs: Its graphs to load.
        threads: Processor threads; None: as many as this process may use.
        options: None: what they mean depends on the engine.

    Returns:
        The engine with the graphs loaded, and a sentence for each that was passed over.

    Raises:
        RunnerError: None of them loads it; the sentence is that of the last one. Or there are
            other options.
    """
    if options:
        raise RunnerError(
            f"runner {AUTO} | got options {', '.join(sorted(options))} | expected threads alone | "
            "name the runner that takes them"
        )
    passed: list[str] = []
    *preferred, last = candidates(threads)
    for candidate in preferred:
        if candidate.problem is not None:
            passed.append(f"{candidate.label}: {candidate.problem}")
            continue
        runner: Runner | None = None
        try:
            runner = open_runner(candidate.name, **candidate.options)
            runner.load(bundle, graphs)
        except RunnerError as error:
            passed.append(f"{candidate.label}: {error}")
            if runner is not None:
                runner.close()
        else:
            return runner, passed
    runner = open_runner(last.name, **last.options)
    runner.load(bundle, graphs)
    return runner, passed


def _cuda_problem() -> str | None:
    """Why ONNX Runtime does not compute on the GPU."""
    import onnxruntime

    has = _CUDA in onnxruntime.get_available_providers()
    return None if has else f"no {_CUDA} in this build of ONNX Runtime"


def _openvino_problem() -> str | None:
    """Why OpenVINO is no gain here: it is worth its start where it multiplies bfloat16."""
    try:
        import openvino
    except ImportError as error:
        return str(error)
    if "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        return None
    return "this processor does not multiply bfloat16; float32 is ONNX Runtime's by default"
