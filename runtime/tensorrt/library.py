"""Which TensorRT is installed, and for which machine it builds."""

from __future__ import annotations

import os
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from sparsevlm_trt.runtime.engines.record import Machine
from sparsevlm_trt.runtime.errors import EngineError
from sparsevlm_trt.runtime.gpu import read_gpus

__all__ = ["RTX_CAPABILITIES", "TARGETS", "Library", "load_library"]

TARGETS = ("tensorrt", "tensorrt-rtx")
# What TensorRT-RTX 1.7 builds for; data center chips (90, 100) are not among its targets.
RTX_CAPABILITIES = ("75", "80", "86", "89", "120", "121")
_INSTALL = {
    "tensorrt": "pip install tensorrt",
    "tensorrt-rtx": "install NVIDIA's tensorrt_rtx wheel from the TensorRT-RTX SDK",
}


@dataclass(frozen=True, slots=True)
class Library:
    """An importable TensorRT.

    Attributes:
        target: What it builds.
        module: Its Python module.
        version: Of the library itself.
    """

    target: str
    module: Any
    version: str

    def machine(self, capabilities: tuple[str, ...] = ()) -> Machine:
        """Say what an engine built here is bound to.

        Args:
            capabilities: Compute capabilities to build ahead for, TensorRT-RTX only.

        Raises:
            EngineError: A capability is unknown; or TensorRT, which tunes its engines on the GPU,
                has none.
        """
        if self.target == "tensorrt-rtx":
            unknown = [one for one in capabilities if one not in RTX_CAPABILITIES]
            if unknown:
                raise EngineError(
                    f"capability | got {', '.join(unknown)} | expected of: "
                    f"{', '.join(RTX_CAPABILITIES)} | for data center GPUs use --target tensorrt "
                    "on such a machine"
                )
            return Machine(self.target, self.version, "", tuple(sorted(capabilities, key=int)))
        if capabilities:
            raise EngineError(
                f"capability | got {', '.join(capabilities)} for {self.target} | expected none | "
                "it builds for the GPU at hand: run it there, or use --target tensorrt-rtx"
            )
        driver = read_gpus()
        if not driver.gpus:
            raise EngineError(
                f"target tensorrt | {driver.problem} | expected an NVIDIA GPU: TensorRT times its "
                "kernels on the one it builds for | compile on the machine that will run it, or "
                "use --target tensorrt-rtx"
            )
        gpu = driver.gpus[0]
        return Machine(self.target, self.version, gpu.name, (gpu.capability.replace(".", ""),))

    def here(self) -> Machine:
        """What an engine must fit to run on this machine; without a GPU, any capability does."""
        gpus = read_gpus().gpus
        if self.target == "tensorrt":
            return self.machine()
        own = tuple(gpu.capability.replace(".", "") for gpu in gpus[:1])
        return Machine(self.target, self.version, "", own)


def load_library(target: str) -> Library:
    """Import the library of a target.

    Raises:
        EngineError: It is not installed, does not load, or is the other of the two.
    """
    if target not in TARGETS:
        raise EngineError(
            f"target | got {target!r} | expected one of: {', '.join(TARGETS)} | name one of them"
        )
    rtx = target == "tensorrt-rtx"
    name = "tensorrt_rtx" if rtx and find_spec("tensorrt_rtx") else "tensorrt"
    if name == "tensorrt_rtx":
        os.environ["POLYGRAPHY_USE_TENSORRT_RTX"] = "1"  # before Polygraphy is imported
    try:
        module = import_module(name)
    except Exception as error:  # a library of the wrong CUDA version can fail anyhow
        raise EngineError(
            f"target {target} | {' '.join(str(error).split())[:200]} | expected an importable "
            f"{name} | {_INSTALL[target]}"
        ) from error
    is_rtx = name == "tensorrt_rtx" or bool(getattr(module, "IS_TENSORRT_RTX", False))
    if is_rtx != rtx:
        raise EngineError(
            f"target {target} | the installed module {name} is "
            f"{'TensorRT-RTX' if is_rtx else 'TensorRT'} | expected the other one | "
            f"{_INSTALL[target]}, or use --target {'tensorrt-rtx' if is_rtx else 'tensorrt'}"
        )
    version = str(getattr(module, "RTX_VERSION", None) or module.__version__)
    return Library(target, module, version)
