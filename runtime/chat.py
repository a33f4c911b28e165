"""Render messages to a prompt by the checkpoint's chat template, in a sandbox."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Template, TemplateError

from sparsevlm_trt.runtime.errors import BundleError, InputError
from sparsevlm_trt.runtime.processor_files import read_json_object, read_text
from sparsevlm_trt.runtime.special_tokens import SpecialTokens
from sparsevlm_trt.runtime.template_sandbox import template_environment

__all__ = ["VIDEO_TEMPLATE", "ChatTemplate"]

VIDEO_TEMPLATE = "chat_template_video.jinja"  # of conversations with a video, where it is another


@dataclass(frozen=True, slots=True)
class ChatTemplate:
    """A compiled chat template and the special tokens that it may write.

    Attributes:
        special_tokens: Text of each named special token, seen by the template as a variable.
    """

    special_tokens: Mapping[str, str]
    _template: Template

    @classmethod
    def open(cls, folder: str | Path, *, video: bool = False) -> ChatTemplate | None:
        """Read a bundle's `processor/` folder.

        Args:
            folder: May hold a template in `chat_template.json`, `chat_template.jinja` or
                `tokenizer_config.json`; the first there is taken, as transformers does.
            video: Read the template of conversations with a video, where it is another.

        Returns:
            The template, or None where the checkpoint has none.

        Raises:
            BundleError: A file is broken, or its template does not compile.
        """
        other = read_text(folder, VIDEO_TEMPLATE) if video else None
        source = other or _find_source(folder)
        if source is None:
            return None
        return cls.of(source, SpecialTokens.open(folder).named)

    @classmethod
    def of(cls, source: str, special_tokens: Mapping[str, str]) -> ChatTemplate:
        """Compile a template.

        Args:
            source: The template's text.
            special_tokens: Text by name, `bos_token` -> `<s>`.

        Raises:
            BundleError: It does not compile.
        """
        try:
            template = template_environment().from_string(source)
        except (TemplateError, RecursionError) as error:
            raise BundleError(
                f"chat template | got {_reason(error)} | expected a Jinja template "
                "| export the bundle again"
            ) from error
        return cls(dict(special_tokens), template)

    def render(
        self, messages: Sequence[Mapping[str, Any]], *, add_generation_prompt: bool = True
    ) -> str:
        """Write messages as the prompt that the model was trained on.

        Args:
            messages: Each with `role` and `content`, a text or a list of parts such as
                `{"type": "text", "text": ...}` and `{"type": "image"}`; `image_url` parts count
                as images, and images inside parts never reach the template.
            add_generation_prompt: End with the opening of the assistant's turn.

        Raises:
            InputError: The messages are none, ill-formed, or refused by the template.
        Source: transformers 5.23 `utils/chat_template_utils.py` and `ProcessorMixin`.
        """
        seen = _checked(messages)
        try:
            return self._template.render(
                **self.special_tokens,
                messages=seen,
                tools=None,
                documents=None,
                add_generation_prompt=add_generation_prompt,
            )
        except Exception as error:  # a template can fail as any program can
            raise InputError(
                f"messages | got {_reason(error)} | expected messages that the model's chat "
                "template takes | change the roles or contents"
            ) from error


def _find_source(folder: str | Path) -> str | None:
    legacy = read_json_object(folder, "chat_template.json") or {}
    config = read_json_object(folder, "tokenizer_config.json") or {}
    found = legacy.get("chat_template")
    if found is None:
        found = read_text(folder, "chat_template.jinja")
    if found is None:
        found = config.get("chat_template")
    if isinstance(found, list):  # several by name, as old tokenizer configs have them
        named = {one.get("name"): one.get("template") for one in found if isinstance(one, dict)}
        found = named.get("default", found)
    if found is None or isinstance(found, str):
        return found
    raise BundleError(
        f"{folder} | got a chat template of type {type(found).__name__} | expected a text, or a "
        'list with one named "default" | export the bundle again'
    )


def _checked(messages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    sound = isinstance(messages, (list, tuple)) and len(messages) > 0
    if not sound or not all(isinstance(message, Mapping) for message in messages):
        raise InputError(
            f"messages | got {_plain(messages)!r:.80} | expected a list of at least one mapping "
            "with role and content | see the README's example"
        )
    # Many templates write a null as the word None; a missing key they expect.
    return [
        {
            _plain(key): _parts(_plain(value)) if key == "content" else _plain(value)
            for key, value in message.items()
            if value is not None
        }
        for message in messages
    ]


def _parts(content: Any) -> Any:
    """Turn OpenAI's `image_url` parts into `image` parts."""
    if not isinstance(content, list):
        return content
    return [
        {"type": "image", "url": _url(part["image_url"])}
        if isinstance(part, dict) and part.get("type") == "image_url" and "image_url" in part
        else part
        for part in content
    ]


def _url(image_url: Any) -> Any:
    return image_url.get("url", "") if isinstance(image_url, dict) else image_url


def _plain(value: Any) -> Any:
    """Copy a value as JSON types only: a template must not reach an image's own methods."""
    if value is None or type(value) in (bool, int, float, str):
        return value
    if isinstance(value, np.generic):
        return _plain(value.item())
    if isinstance(value, str):  # a subclass, an Enum say: its text, not its own str()
        return str.__str__(value)
    if isinstance(value, int):
        return int.__int__(value)
    if isinstance(value, float):
        return float.__float__(value)
    if isinstance(value, Mapping):
        return {_plain(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return f"<{type(value).__name__}>"


def _reason(error: BaseException) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]
