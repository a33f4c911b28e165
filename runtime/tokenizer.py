"""Text to token ids and back, as the checkpoint's own tokenizer does it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tokenizers import AddedToken
from tokenizers import Tokenizer as Backend

from sparsevlm_trt.runtime.errors import BundleError, InputError
from sparsevlm_trt.runtime.special_tokens import SpecialTokens

__all__ = ["IncrementalDecoder", "Tokenizer"]

_BROKEN = "\N{REPLACEMENT CHARACTER}"  # what the decoder shows for bytes that are no character


@dataclass(frozen=True, slots=True)
class Tokenizer:
    """Encodes and decodes with the `tokenizers` library.

    Attributes:
        special_tokens: Text of each named special token, `bos_token` -> `<s>`.
    """

    special_tokens: Mapping[str, str]
    _backend: Backend

    @classmethod
    def open(cls, folder: str | Path) -> Tokenizer:
        """Read a bundle's `processor/` folder.

        Args:
            folder: Holds `tokenizer.json`, and usually `tokenizer_config.json`. The first is taken
                at its word, whatever `tokenizer_class` the second names.

        Raises:
            BundleError: `tokenizer.json` is missing, or a file is broken.
        """
        path = Path(folder, "tokenizer.json")
        if not path.is_file():
            raise BundleError(
                f"{folder} | got no tokenizer.json | expected one | export the bundle again"
            )
        special = SpecialTokens.open(folder)
        try:
            backend = Backend.from_file(str(path))
        except Exception as error:  # the library raises bare Exception
            raise BundleError(
                f"{path} | got {error} | expected a tokenizer of the tokenizers library "
                "| export the bundle again"
            ) from error
        # A file may have training's truncation and padding baked in; inference wants neither.
        backend.no_truncation()
        backend.no_padding()
        backend.add_tokens(_missing(backend, special))
        return cls(dict(special.named), backend)

    def encode(self, text: str) -> list[int]:
        """Turn text into ids.

        Special tokens written in the text become themselves. Those that the tokenizer puts around
        a text are added too, unless the text brings its own start token (a chat template's).

        Args:
            text: Any text without lone surrogates.

        Raises:
            InputError: It is not such a text.
        Source: transformers 5.23 `ProcessorMixin.apply_chat_template`, for the start token's rule.
        """
        bos = self.special_tokens.get("bos_token")
        begun = bos is not None and isinstance(text, str) and text.startswith(bos)
        try:
            encoding = self._backend.encode(text, add_special_tokens=not begun)
        except (TypeError, UnicodeError) as error:
            raise InputError(
                f"prompt | got {type(text).__name__} that is no Unicode text | expected text "
                "| remove the lone surrogates"
            ) from error
        return list(encoding.ids)

    def decode(self, ids: Iterable[int], *, skip_special: bool = True) -> str:
        """Turn ids into text; ids outside the vocabulary give none.

        Args:
            ids: Token ids, 0 or more.
            skip_special: Leave special tokens out.
        """
        listed = [int(one) for one in ids]
        return str(self._backend.decode(listed, skip_special_tokens=skip_special))

    def token_id(self, token: str) -> int:
        """Give the id of one token by its exact text, `<image>` say.

        Raises:
            InputError: The vocabulary has no such token.
        """
        index = self._backend.token_to_id(token)
        if index is None:
            raise InputError(
                f"token {token!r} | got no such token in the vocabulary | expected an exact token "
                "| see tokenizer.json"
            )
        return int(index)

    def text_of(self, token: int) -> str:
        """Give the exact text of one token.

        Raises:
            BundleError: The vocabulary has no such id.
        """
        text = self._backend.id_to_token(token)
        if text is None:
            raise BundleError(
                f"tokenizer.json | got no token {token} | expected the placeholder that "
                "bundle.json names | export the bundle again"
            )
        return str(text)

    @property
    def vocab_size(self) -> int:
        """Number of ids, added tokens among them."""
        return int(self._backend.get_vocab_size(with_added_tokens=True))

    def incremental(self, *, skip_special: bool = True) -> IncrementalDecoder:
        """Start decoding a stream of ids."""
        return IncrementalDecoder(self, skip_special)


@dataclass(slots=True)
class IncrementalDecoder:
    """Decodes ids one at a time; never gives half a character, never takes text back.

    The texts given, joined, are the text of all ids. (One exception: a byte-fallback tokenizer
    blames a whole run of bytes for one bad byte at its end; what was given before it stays.)

    Attributes:
        tokenizer: Decodes the window of ids around the border.
        skip_special: Leave special tokens out.
    """

    tokenizer: Tokenizer
    skip_special: bool = True
    _window: list[int] = field(default_factory=list, init=False)
    _given: int = field(default=0, init=False)  # ids of the window whose text was given

    def feed(self, token: int) -> str:
        """Take in one id and give the text that is certain now, possibly empty."""
        self._window.append(token)
        return self._advance(at_end=False)

    def finish(self) -> str:
        """Give what is left, at the end: an unfinished character shows as U+FFFD."""
        return self._advance(at_end=True)

    def _advance(self, *, at_end: bool) -> str:
        # The ids already given stay in front: some tokenizers drop a first token's leading space.
        before = self._decode(self._window[: self._given])
        now = self._decode(self._window)
        if len(now) <= len(before) or (now.endswith(_BROKEN) and not at_end):
            return ""
        self._window = self._window[self._given :]
        self._given = len(self._window)
        return now[len(before) :]

    def _decode(self, ids: list[int]) -> str:
        return self.tokenizer.decode(ids, skip_special=self.skip_special)


def _missing(backend: Backend, special: SpecialTokens) -> list[AddedToken]:
    """List the tokens that the config names and `tokenizer.json` lacks or flags differently."""
    present = backend.get_added_tokens_decoder().values()
    same = {repr(token) for token in present}
    missing = [token for token in special.declared if repr(token) not in same]
    known = {token.content for token in (*present, *missing)}
    for token in special.others:
        if token.content not in known:
            known.add(token.content)
            missing.append(token)
    for token in missing:
        token.special = token.special or token.content in special.named.values()
    return missing
