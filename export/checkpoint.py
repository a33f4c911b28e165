"""A Hugging Face checkpoint on disk, its tensors read one at a time."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor
from transformers import AutoConfig, PretrainedConfig

from sparsevlm_trt.export.original_llava import refuse_original_llava
from sparsevlm_trt.runtime.errors import ExportError

__all__ = ["Checkpoint"]

# Pages of mapped files count as ours until they are unmapped: do so this often.
MAPPED_BYTES = 1 << 29
_INDEX = "model.safetensors.index.json"
_SINGLE = "model.safetensors"


class Checkpoint:
    """A checkpoint folder: its config and a lazy view of its safetensors.

    Tensors are memory-mapped; nothing is read before it is asked for, so a 7B model costs
    no more memory than its largest tensor.

    Args:
        path: Folder as written by `save_pretrained`.

    Raises:
        ExportError: The folder, its config or its weights are missing or damaged.
    """

    def __init__(self, path: str | Path) -> None:
        """Read the config and the list of tensors."""
        self.path = Path(path)
        self.config = _read_config(self.path)
        self._files = _tensor_files(self.path)
        self._open: dict[Path, Any] = {}
        self._mapped_bytes = 0

    def names(self) -> list[str]:
        """Names of all tensors, sorted."""
        return sorted(self._files)

    def resolve(self, name: str, prefixes: tuple[str, ...]) -> str:
        """The stored name of a tensor, whichever prefix this checkpoint's age gave it.

        Args:
            name: Name below the prefix, such as `layers.0.mlp.up_proj.weight`.
            prefixes: Prefixes to try, newest layout first.

        Raises:
            ExportError: No prefix leads to a stored tensor.
        """
        for prefix in prefixes:
            if prefix + name in self._files:
                return prefix + name
        tried = ", ".join(repr(prefix + name) for prefix in prefixes)
        raise ExportError(
            f"checkpoint {self.path} | no tensor {tried} | expected one of these names "
            "| check that the weights belong to this config.json"
        )

    def has(self, name: str, prefixes: tuple[str, ...]) -> bool:
        """Whether a tensor is stored under one of the prefixes."""
        return any(prefix + name in self._files for prefix in prefixes)

    def tensor(self, stored_name: str) -> Tensor:
        """One tensor by its stored name, memory-mapped where the platform allows.

        Raises:
            ExportError: The file holding it is truncated or is not safetensors.
        """
        file = self._files[stored_name]
        if self._mapped_bytes > MAPPED_BYTES:
            self.release()
        try:
            if file not in self._open:
                self._open[file] = safe_open(file, framework="pt")
            value: Tensor = self._open[file].get_tensor(stored_name)
        except (SafetensorError, OSError) as error:
            raise _damaged(file, error) from error
        self._mapped_bytes += value.nbytes
        return value

    def tensors(self, part: str) -> dict[str, Tensor]:
        """All tensors whose stored name contains `part`, by stored name."""
        return {name: self.tensor(name) for name in self.names() if part in name}

    def release(self) -> None:
        """Close the mapped files, so that their pages no longer count as ours."""
        self._open.clear()
        self._mapped_bytes = 0


def _read_config(path: Path) -> PretrainedConfig:
    if not path.is_dir():
        raise ExportError(
            f"checkpoint {path} | no such folder | expected a folder with config.json and "
            "*.safetensors | download the model first, then give its folder"
        )
    if not (path / "config.json").is_file():
        raise ExportError(
            f"checkpoint {path} | no config.json | expected a Hugging Face checkpoint folder "
            "| give the folder that save_pretrained wrote"
        )
    refuse_original_llava(path)
    try:
        return AutoConfig.from_pretrained(path, local_files_only=True)
    except Exception as error:  # its checks raise errors of many kinds, all about this file
        reason = " ".join(str(error).split("\n\n")[0].split()) or type(error).__name__
        raise ExportError(
            f"checkpoint {path} | config.json: {reason} | expected a model that transformers "
            "knows | update transformers, or check the file"
        ) from error


def _tensor_files(path: Path) -> dict[str, Path]:
    index = path / _INDEX
    if index.is_file():
        return _sharded_files(path, index)
    single = path / _SINGLE
    if not single.is_file():
        raise ExportError(
            f"checkpoint {path} | no {_SINGLE} and no {_INDEX} | expected safetensors weights "
            "| convert with transformers: from_pretrained(...).save_pretrained(...)"
        )
    return dict.fromkeys(_stored_names(single), single)


def _sharded_files(path: Path, index: Path) -> dict[str, Path]:
    """Look into every shard now: a bad one should not be found after minutes of work."""
    try:
        weight_map = dict[str, str](json.loads(index.read_text())["weight_map"])
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise _damaged(index, error) from error
    shards = sorted(set(weight_map.values()))
    missing = [shard for shard in shards if not (path / shard).is_file()]
    if missing:
        raise ExportError(
            f"checkpoint {path} | missing {', '.join(missing)} | expected every shard named "
            f"in {_INDEX} | finish the download"
        )
    stored = {shard: set(_stored_names(path / shard)) for shard in shards}
    absent = sorted(name for name, shard in weight_map.items() if name not in stored[shard])
    if absent:
        raise ExportError(
            f"checkpoint {path} | no tensor {absent[0]} in {weight_map[absent[0]]} "
            f"({len(absent)} in all) | expected what {_INDEX} says | download it again"
        )
    return {name: path / shard for name, shard in weight_map.items()}


def _stored_names(file: Path) -> list[str]:
    try:
        with safe_open(file, framework="pt") as handle:
            return list(handle.keys())
    except (SafetensorError, OSError) as error:
        raise _damaged(file, error) from error


def _damaged(file: Path, error: Exception) -> ExportError:
    return ExportError(
        f"weights {file} | {error} | expected an intact file | download it again: it is "
        "truncated or damaged"
    )
