"""The checkpoint's text and image processing files, as the runtime wants to find them."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

from transformers import AutoTokenizer

from sparsevlm_trt.runtime.errors import ExportError

__all__ = ["processor_files"]

_VERBATIM = (
    "chat_template.jinja",
    "chat_template.json",
    "generation_config.json",
    "preprocessor_config.json",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer_config.json",
)


def processor_files(checkpoint: Path, *, needs_images: bool) -> dict[str, bytes]:
    """Collect what tokenizes, templates and preprocesses.

    Files are taken verbatim. Two are derived where a checkpoint lacks them: `tokenizer.json` from
    a slow tokenizer's files, `preprocessor_config.json` from `processor_config.json`, where newer
    versions of transformers keep it.

    Args:
        checkpoint: Checkpoint folder.
        needs_images: Whether the model has a vision tower.

    Returns:
        Bytes by file name. A bare language model may have none: it is then driven by embeddings.

    Raises:
        ExportError: A vision-language model without a tokenizer or image processing.
    """
    found = {name: checkpoint / name for name in _VERBATIM}
    files = {name: path.read_bytes() for name, path in found.items() if path.is_file()}
    if "tokenizer.json" not in files and (checkpoint / "tokenizer.model").is_file():
        files["tokenizer.json"] = _converted_tokenizer(checkpoint)
    if "preprocessor_config.json" not in files:
        nested = _nested_image_processor(checkpoint / "processor_config.json")
        if nested is not None:
            files["preprocessor_config.json"] = nested
    wanted = ("tokenizer.json", "preprocessor_config.json") if needs_images else ()
    missing = [name for name in wanted if name not in files]
    if missing:
        raise ExportError(
            f"checkpoint {checkpoint} | no {' and no '.join(missing)} "
            "| expected the processor's files beside the weights "
            "| save them with AutoProcessor.from_pretrained(...).save_pretrained(...)"
        )
    return files


def _converted_tokenizer(checkpoint: Path) -> bytes:
    tokenizer = AutoTokenizer.from_pretrained(checkpoint, local_files_only=True)
    with tempfile.TemporaryDirectory() as folder:
        tokenizer.save_pretrained(folder)
        return (Path(folder) / "tokenizer.json").read_bytes()


def _nested_image_processor(path: Path) -> bytes | None:
    if not path.is_file():
        return None
    nested = json.loads(path.read_text()).get("image_processor")
    return None if nested is None else json.dumps(nested, indent=2, sort_keys=True).encode()
