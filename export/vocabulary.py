"""Special tokens that a checkpoint's tokenizer names, and its config does not."""

from __future__ import annotations

from pathlib import Path

from sparsevlm_trt.export.processor_files import tokenizer_of
from sparsevlm_trt.runtime.errors import ExportError

__all__ = ["named_id", "text_id", "token_id"]


def token_id(checkpoint: Path, name: str) -> int:
    """The id of a named special token.

    Args:
        checkpoint: Checkpoint folder.
        name: Its name in `tokenizer_config.json`, `start_image_token` say.

    Raises:
        ExportError: There is no tokenizer, or it names no such token.
    """
    found = named_id(checkpoint, name)
    if found is None:
        raise ExportError(
            f"checkpoint {checkpoint} | tokenizer: no {name} | expected tokenizer_config.json "
            "to name it | download the checkpoint's tokenizer files again"
        )
    return found


def named_id(checkpoint: Path, name: str) -> int | None:
    """The id of a named special token, None where the tokenizer names none so.

    Raises:
        ExportError: There is no tokenizer.
    """
    tokenizer = tokenizer_of(checkpoint)
    text = getattr(tokenizer, name, None)
    return int(tokenizer.convert_tokens_to_ids(text)) if isinstance(text, str) else None


def text_id(checkpoint: Path, text: str) -> int:
    """The id of a token by its exact text.

    Raises:
        ExportError: There is no tokenizer, or it has no such token.
    """
    vocabulary = tokenizer_of(checkpoint).get_vocab()
    if text not in vocabulary:
        raise ExportError(
            f"checkpoint {checkpoint} | tokenizer: no {text} | expected it among the special "
            "tokens | download the checkpoint's tokenizer files again"
        )
    return int(vocabulary[text])
