"""An NVIDIA Triton model repository of a bundle: our own engine batches what Triton takes."""

from __future__ import annotations

import re
from pathlib import Path

from sparsevlm_trt.runtime.bundle import Bundle
from sparsevlm_trt.runtime.deploy.folder import copy_bundle, new_folder, write_text
from sparsevlm_trt.runtime.errors import InputError

__all__ = ["config_text", "write_triton_repository"]

_NAME = re.compile(r"[A-Za-z0-9._-]{1,100}")

# Requests come one at a time (max_batch_size 0): rows of different lengths and budgets are
# batched by our own engine, between the decode steps, which Triton's batcher cannot do.
_CONFIG = """\
name: "{name}"
backend: "python"
max_batch_size: 0
model_transaction_policy {{ decoupled: true }}
input [
  {{ name: "request" data_type: TYPE_STRING dims: [ 1 ] }}
]
output [
  {{ name: "response" data_type: TYPE_STRING dims: [ 1 ] }}
]
instance_group [ {{ kind: {kind} count: 1 }} ]
parameters {{ key: "slots" value {{ string_value: "{slots}" }} }}
parameters {{ key: "queue" value {{ string_value: "{queue}" }} }}
parameters {{ key: "provider" value {{ string_value: "{provider}" }} }}
"""

_MODEL = '''\
"""Triton's Python backend looks for this class; it lives in the package."""

from sparsevlm_trt.runtime.deploy.triton_backend import TritonPythonModel

__all__ = ["TritonPythonModel"]
'''


def config_text(name: str, *, slots: int, queue: int, provider: str) -> str:
    """Spell a `config.pbtxt`.

    Args:
        name: The model's name.
        slots: Requests that decode together.
        queue: Requests that may wait.
        provider: ONNX Runtime's execution provider.
    """
    kind = "KIND_CPU" if provider == "CPUExecutionProvider" else "KIND_GPU"
    return _CONFIG.format(name=name, slots=slots, queue=queue, provider=provider, kind=kind)


def write_triton_repository(
    bundle: Path,
    out: Path,
    *,
    name: str,
    slots: int = 8,
    queue: int = 64,
    provider: str = "CPUExecutionProvider",
) -> Path:
    """Write a model repository with one model.

    Args:
        bundle: A bundle; verified first.
        out: The repository; must not exist.
        name: What Triton and its clients call the model.
        slots: Requests that decode together.
        queue: Requests that may wait.
        provider: ONNX Runtime's execution provider.

    Returns:
        `out`.

    Raises:
        BundleError: The bundle is missing, incomplete or altered.
        InputError: The name cannot be used, or `out` exists or cannot be written.
    """
    if not _NAME.fullmatch(name):
        raise InputError(
            f"deploy | got the model name {name!r} | expected letters, digits, dots, dashes and "
            "underscores | name another with --name"
        )
    opened = Bundle.open(bundle)
    with new_folder(out) as draft:
        model = draft / name
        text = config_text(name, slots=slots, queue=queue, provider=provider)
        write_text(model / "config.pbtxt", text)
        write_text(model / "1" / "model.py", _MODEL)
        copy_bundle(opened, model / "1" / "bundle")
    return out
