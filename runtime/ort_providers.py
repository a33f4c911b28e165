"""ONNX Runtime's execution providers: which are there, what they are asked for, what they need."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from io import StringIO
from typing import Any

from sparsevlm_trt.runtime.errors import RunnerError

__all__ = ["CPU", "ON_CUDA", "check_providers", "load_cuda", "merged_options"]

CPU = "CPUExecutionProvider"
# Providers whose graphs read and write a GPU's memory.
ON_CUDA = ("CUDAExecutionProvider", "TensorrtExecutionProvider")

# What a provider is asked for where the caller does not say otherwise.
_PROVIDER_OPTIONS = {
    "CUDAExecutionProvider": {
        "arena_extend_strategy": "kSameAsRequested",  # by default every growth doubles
        "cudnn_conv_algo_search": "HEURISTIC",  # by default each new shape is timed at length
        "use_tf32": "0",  # float32 is the reference: ten bits of mantissa are not
    }
}

_PACKAGES = {
    "CUDAExecutionProvider": "onnxruntime-gpu",
    "TensorrtExecutionProvider": "onnxruntime-gpu and TensorRT",
    "OpenVINOExecutionProvider": "onnxruntime-openvino",
    "DmlExecutionProvider": "onnxruntime-directml",
}


def check_providers(wanted: Sequence[str], available: Sequence[str]) -> list[str]:
    """Return the providers to use, the CPU last, or say which is not there and what brings it."""
    wanted = [wanted] if isinstance(wanted, str) else list(wanted)
    missing = [name for name in wanted if name not in available]
    if missing:
        package = _PACKAGES.get(missing[0], "an onnxruntime build that has it")
        raise RunnerError(
            f"runner onnxruntime | got provider {', '.join(missing)} | expected of: "
            f"{', '.join(available)} | install {package}"
        )
    return [*(name for name in wanted if name != CPU), CPU]


def merged_options(
    providers: Sequence[str], given: Mapping[str, Mapping[str, Any]]
) -> list[dict[str, str]]:
    """Return the options of each provider, the caller's over ours."""
    unknown = sorted(set(given) - set(providers))
    if unknown:
        raise RunnerError(
            f"runner onnxruntime | got options of {', '.join(unknown)} | expected of: "
            f"{', '.join(providers)} | add it to providers"
        )
    return [
        {
            **_PROVIDER_OPTIONS.get(name, {}),
            **{key: str(value) for key, value in given.get(name, {}).items()},
        }
        for name in providers
    ]


def load_cuda(onnxruntime: Any) -> str:
    """Load the CUDA libraries that pip installed; return what could not be, as a clause.

    Harmless where they are loaded already, or are the system's.
    """
    preload = getattr(onnxruntime, "preload_dlls", None)
    told = StringIO()
    if preload is not None:
        with redirect_stdout(told):  # it prints
            preload()
    lines = [line for line in told.getvalue().splitlines() if "fail" in line.lower()]
    return f" ({'; '.join(lines)[:300]})" if lines else ""
