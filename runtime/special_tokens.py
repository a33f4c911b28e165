"""The special tokens that a checkpoint's tokenizer files name, beside its `tokenizer.json`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import AddedToken

from sparsevlm_trt.runtime.errors import BundleError
from sparsevlm_trt.runtime.processor_files import read_json_object

__all__ = ["SpecialTokens"]

# Names every tokenizer may give, in the order in which missing ones get their ids.
# Source: transformers 5.23 `PreTrainedTokenizerBase.SPECIAL_TOKENS_ATTRIBUTES`.
_STANDARD = tuple(f"{kind}_token" for kind in ("bos", "eos", "unk", "sep", "pad", "cls", "mask"))
_FLAGS = ("single_word", "lstrip", "rstrip", "normalized", "special")


@dataclass(frozen=True, slots=True)
class SpecialTokens:
    """Special tokens by name, and all tokens to register with the tokenizer.

    Attributes:
        named: Text by name, `bos_token` -> `<s>`; also model-specific names, `image_token`.
        declared: Tokens whose ids the files fix, in the order of their ids.
        others: Named and extra tokens, to be added where the vocabulary lacks them, in order.
    """

    named: Mapping[str, str]
    declared: tuple[AddedToken, ...]
    others: tuple[AddedToken, ...]

    @classmethod
    def open(cls, folder: str | Path) -> SpecialTokens:
        """Read `tokenizer_config.json`, and `special_tokens_map.json` where the first is old.

        Raises:
            BundleError: One of them is broken.
        Source: transformers 5.23 `PreTrainedTokenizerBase._from_pretrained`.
        """
        config = read_json_object(folder, "tokenizer_config.json") or {}
        older: dict[str, Any] = {}
        if "added_tokens_decoder" not in config:
            older = read_json_object(folder, "special_tokens_map.json") or {}
        try:
            return cls._from_configs(config, older)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise BundleError(
                f"{Path(folder, 'tokenizer_config.json')} | got special tokens that cannot be "
                f"read ({type(error).__name__}: {error}) | expected texts or added tokens "
                "| export the bundle again"
            ) from error

    @classmethod
    def _from_configs(cls, config: dict[str, Any], older: dict[str, Any]) -> SpecialTokens:
        decoder = config.get("added_tokens_decoder") or {}
        by_id = sorted(decoder.items(), key=lambda item: int(item[0]))
        declared = {token.content: token for token in (_token(value) for _, value in by_id)}
        merged = config | older
        own = [
            name
            for name, value in merged.items()
            if name.endswith("_token") and name not in _STANDARD and isinstance(value, (str, dict))
        ]
        values = {name: merged[name] for name in (*_STANDARD, *own) if merged.get(name)}
        extra: list[Any] = []
        for given in (_extra(config), older.get("extra_special_tokens") or []):
            if isinstance(given, dict):
                values |= given
                extra = []  # transformers lets names replace an older list
            else:
                extra += given
        # transformers reads this key of the older file only where nothing else gave a list.
        extra = extra or older.get("additional_special_tokens") or []
        named = {name: _token(value) for name, value in values.items()}
        others = [*named.values(), *map(_token, extra)]
        return cls(
            named={name: token.content for name, token in named.items()},
            declared=tuple(declared.values()),
            others=tuple(declared.get(token.content, token) for token in others),
        )


def _extra(config: dict[str, Any]) -> Any:
    return config.get("extra_special_tokens") or config.get("additional_special_tokens") or []


def _token(value: str | dict[str, Any]) -> AddedToken:
    """Build a token from its text or its saved form; a text alone is special."""
    if isinstance(value, str):
        return AddedToken(value, special=True)
    flags = {name: value[name] for name in _FLAGS if name in value}
    return AddedToken(value["content"], **{"special": True, **flags})
