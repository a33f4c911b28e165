"""ONNX Runtime's TensorRT providers: our shape ranges, and their engine caches in the bundle."""

from __future__ import annotations

import os
from importlib import import_module
from pathlib import Path
from typing import Any

from sparsevlm_trt.runtime.bundle import Bundle
from sparsevlm_trt.runtime.engines.folder import ENGINES_FOLDER
from sparsevlm_trt.runtime.engines.limits import Limits
from sparsevlm_trt.runtime.engines.profiles import Profile, graph_profiles
from sparsevlm_trt.runtime.errors import RunnerError

__all__ = ["RTX_PROVIDER", "TENSORRT_PROVIDER", "gpu_options", "rtx_devices"]

TENSORRT_PROVIDER = "TensorrtExecutionProvider"
RTX_PROVIDER = "NvTensorRTRTXExecutionProvider"
_PLUGIN = "onnxruntime_ep_nv_tensorrt_rtx"
_WHICH = ("min", "opt", "max")


def gpu_options(
    bundle: Bundle, graph: str, provider: str, limits: Limits | None
) -> dict[str, str]:
    """Options of a provider for one graph.

    Without shape ranges these providers build again for every new length.

    Args:
        bundle: The bundle; engines are kept in its `engines/onnxruntime-...`, where that can be
            written.
        graph: The graph's name.
        provider: The provider's name; others than the two get no options.
        limits: The largest request; None: the default of `sparsevlm compile`.

    Raises:
        EngineError: The graph has a dim that no limit bounds.
    """
    if provider not in (TENSORRT_PROVIDER, RTX_PROVIDER):
        return {}
    bounds = limits or Limits.of(bundle)
    (profile,) = graph_profiles(bundle.manifest, bounds, graph)
    folder = _cache_folder(bundle, provider)
    if provider == RTX_PROVIDER:
        options = {f"nv_profile_{which}_shapes": _spelled(profile, which) for which in _WHICH}
        return options | ({"nv_runtime_cache_path": str(folder)} if folder else {})
    options = {f"trt_profile_{which}_shapes": _spelled(profile, which) for which in _WHICH}
    if folder:
        options |= {
            "trt_engine_cache_enable": "1",
            "trt_engine_cache_path": str(folder),
            "trt_timing_cache_enable": "1",
            "trt_timing_cache_path": str(folder),
        }
    return options


def rtx_devices(onnxruntime: Any) -> list[Any]:
    """Register TensorRT-RTX's plugin, once, and list the GPUs that it can use.

    Raises:
        RunnerError: The plugin is not installed, does not load, or finds no GPU.
    """
    where = "expected NVIDIA's plugin and an RTX GPU"
    try:
        plugin = import_module(_PLUGIN)
        if not _found(onnxruntime):
            path = plugin.get_library_path()
            onnxruntime.register_execution_provider_library(RTX_PROVIDER, path)
    except ImportError as error:
        raise RunnerError(
            f"runner onnxruntime | {error} | {where} | "
            "pip install onnxruntime-ep-nv-tensorrt-rtx-cu13"
        ) from error
    except Exception as error:  # ONNX Runtime's own classes share no public base
        reason = " ".join(str(error).split())
        raise RunnerError(
            f"runner onnxruntime | {RTX_PROVIDER}: {reason[-160:]} | {where} | install the driver"
        ) from error
    devices = _found(onnxruntime)
    if not devices:
        raise RunnerError(
            f"runner onnxruntime | {RTX_PROVIDER} finds no GPU | {where} | use another provider"
        )
    return devices


def _found(onnxruntime: Any) -> list[Any]:
    return [one for one in onnxruntime.get_ep_devices() if one.ep_name == RTX_PROVIDER]


def _cache_folder(bundle: Bundle, provider: str) -> Path | None:
    """Where the provider may keep what it built; None in a bundle that cannot be written."""
    name = "onnxruntime-tensorrt-rtx" if provider == RTX_PROVIDER else "onnxruntime-tensorrt"
    folder = bundle.path / ENGINES_FOLDER / name
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return None
    return folder if os.access(folder, os.W_OK) else None


def _spelled(profile: Profile, which: str) -> str:
    """Spell one side of a profile, `name:1x640x576,...`."""
    return ",".join(
        f"{name}:{'x'.join(str(size) for size in getattr(one, which))}"
        for name, one in profile.items()
    )
