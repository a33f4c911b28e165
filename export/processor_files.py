"""The checkpoint's text and image processing files, as the runtime wants to find them."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer

from sparsevlm_trt.runtime.chat import VIDEO_TEMPLATE
from sparsevlm_trt.runtime.errors import ExportError

__all__ = ["processor_files", "tokenizer_of"]

_VERBATIM = (
    "chat_template.jinja",
    "chat_template.json",
    "generation_config.json",
    "preprocessor_config.json",
    "video_preprocessor_config.json",
)
_VIDEO = "video_preprocessor_config.json"
_NESTED = {"preprocessor_config.json": "image_processor", _VIDEO: "video_processor"}
_TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")
_TOKENIZER_SOURCES = ("tokenizer.json", "tokenizer.model")


def processor_files(
    checkpoint: Path,
    *,
    needs_images: bool,
    needs_videos: bool = False,
    video_template: str | None = None,
) -> dict[str, bytes]:
    """Collect what tokenizes, templates and preprocesses.

    Files are taken verbatim but two. The tokenizer is saved anew, as transformers reads it: for
    some classes (`LlamaTokenizer`) it rebuilds parts that the stored `tokenizer.json` has
    otherwise, and others have a slow form only. `preprocessor_config.json` comes from
    `processor_config.json` where newer versions of transformers keep it.

    Args:
        checkpoint: Checkpoint folder.
        needs_images: Whether the model has a vision tower.
        needs_videos: Whether it takes videos.
        video_template: Chat template of conversations with a video, where it is another.

    Returns:
        Bytes by file name. A bare language model may have none: it is then driven by embeddings.

    Raises:
        ExportError: A vision-language model without a tokenizer or image processing.
    """
    found = {name: checkpoint / name for name in _VERBATIM}
    files = {name: path.read_bytes() for name, path in found.items() if path.is_file()}
    if any((checkpoint / name).is_file() for name in _TOKENIZER_SOURCES):
        files |= _tokenizer_files(checkpoint)
    for name, section in _NESTED.items():
        if name not in files:
            nested = _nested_processor(checkpoint / "processor_config.json", section)
            if nested is not None:
                files[name] = nested
    if not needs_videos:
        files.pop(_VIDEO, None)
    elif _VIDEO not in files and "preprocessor_config.json" in files:
        # Older checkpoints say it once, for images and frames alike.
        files[_VIDEO] = files["preprocessor_config.json"]
    if video_template is not None:
        files[VIDEO_TEMPLATE] = video_template.encode()
    wanted = ("tokenizer.json", "preprocessor_config.json") if needs_images else ()
    missing = [name for name in wanted if name not in files]
    if missing:
        raise ExportError(
            f"checkpoint {checkpoint} | no {' and no '.join(missing)} "
            "| expected the processor's files beside the weights "
            "| save them with AutoProcessor.from_pretrained(...).save_pretrained(...)"
        )
    return files


def tokenizer_of(checkpoint: Path) -> Any:
    """The checkpoint's tokenizer, as transformers reads it.

    Raises:
        ExportError: It cannot.
    """
    try:
        return AutoTokenizer.from_pretrained(checkpoint, local_files_only=True)
    except (OSError, ValueError, KeyError, TypeError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ExportError(
            f"checkpoint {checkpoint} | tokenizer: {reason} | expected one that transformers "
            "reads | check its files, or update transformers"
        ) from error


def _tokenizer_files(checkpoint: Path) -> dict[str, bytes]:
    tokenizer = tokenizer_of(checkpoint)
    with tempfile.TemporaryDirectory() as folder:
        tokenizer.save_pretrained(folder)
        saved = {name: Path(folder) / name for name in _TOKENIZER}
        return {name: path.read_bytes() for name, path in saved.items() if path.is_file()}


def _nested_processor(path: Path, section: str) -> bytes | None:
    if not path.is_file():
        return None
    try:
        nested = dict(json.loads(path.read_text())).get(section)
    except (OSError, ValueError, TypeError) as error:
        raise ExportError(
            f"checkpoint {path.parent} | processor_config.json: {error} | expected a JSON object "
            "| download it again: it is damaged"
        ) from error
    return None if nested is None else json.dumps(nested, indent=2, sort_keys=True).encode()
