"""The `processor/` folder of a bundle: text, pixels, stop tokens, each opened when first used."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from sparsevlm_trt.runtime.bundle import Bundle
from sparsevlm_trt.runtime.errors import BundleError, InputError

if TYPE_CHECKING:  # tokenizers, jinja2 and Pillow take time that arrays do not need
    from sparsevlm_trt.runtime.chat import ChatTemplate
    from sparsevlm_trt.runtime.image_processor import ImageProcessor
    from sparsevlm_trt.runtime.tokenizer import Tokenizer
    from sparsevlm_trt.runtime.visuals.visual import VisualLayout

__all__ = ["Processor"]


class Processor:
    """What turns text and images into a model's inputs, and tokens into text."""

    def __init__(self, bundle: Bundle) -> None:
        """Take a bundle; nothing is read yet."""
        self._bundle = bundle

    @cached_property
    def tokenizer(self) -> Tokenizer | None:
        """The tokenizer; None where the bundle has none."""
        if not self._bundle.has_file("processor/tokenizer.json"):
            return None
        from sparsevlm_trt.runtime.tokenizer import Tokenizer

        return Tokenizer.open(self._bundle.processor)

    @cached_property
    def chat(self) -> ChatTemplate | None:
        """The chat template; None where the bundle has none."""
        from sparsevlm_trt.runtime.chat import ChatTemplate

        return ChatTemplate.open(self._bundle.processor)

    @cached_property
    def film_chat(self) -> ChatTemplate | None:
        """The chat template of conversations with a video; `chat` where it is no other."""
        from sparsevlm_trt.runtime.chat import ChatTemplate

        return ChatTemplate.open(self._bundle.processor, video=True)

    @cached_property
    def images(self) -> ImageProcessor:
        """The image processor."""
        from sparsevlm_trt.runtime.image_processor import ImageProcessor

        return ImageProcessor.open(self._bundle.processor)

    @cached_property
    def frames(self) -> ImageProcessor | None:
        """The processor of video frames; None where the model takes no videos."""
        from sparsevlm_trt.runtime.image_config import ImageConfig
        from sparsevlm_trt.runtime.image_processor import ImageProcessor

        vision = self._bundle.manifest.vision
        if vision is None or not vision.takes_videos:
            return None
        return ImageProcessor(ImageConfig.open(self._bundle.processor, video=True))

    @cached_property
    def placeholders(self) -> tuple[str, str]:
        """The texts that stand for an image and for a video in a prompt; empty for none.

        Raises:
            BundleError: The tokenizer does not know the token.
        """
        vision = self._bundle.manifest.vision
        if vision is None or self.tokenizer is None:
            return "", ""
        image = self.tokenizer.text_of(vision.image_token_id)
        video = vision.video_token_id
        return image, vision.video_mark if video is None else self.tokenizer.text_of(video)

    @cached_property
    def layout(self) -> VisualLayout:
        """What lays images and videos out as tokens; of a bundle with a vision graph."""
        from sparsevlm_trt.runtime.visuals.layouts import open_layout

        vision = self._bundle.manifest.vision
        assert vision is not None
        assert self.tokenizer is not None
        return open_layout(vision, self.images, self.frames, self.tokenizer)

    @cached_property
    def stop_tokens(self) -> frozenset[int]:
        """The tokens that end an answer: the generation config's, else the tokenizer's own."""
        name = "processor/generation_config.json"
        if self._bundle.has_file(name):
            path = self._bundle.file(name)
            try:
                found = json.loads(path.read_text(encoding="utf-8")).get("eos_token_id")
                listed = found if isinstance(found, list) else [found]
                if found is not None:
                    return frozenset(int(token) for token in listed)
            except (ValueError, TypeError, AttributeError) as error:
                raise BundleError(
                    f"{path} | {error} | expected eos_token_id, a token or a list of them | "
                    "export the bundle again"
                ) from error
        if self.tokenizer is None or "eos_token" not in self.tokenizer.special_tokens:
            return frozenset()
        return frozenset([self.tokenizer.token_id(self.tokenizer.special_tokens["eos_token"])])

    def render(self, messages: Sequence[Mapping[str, Any]]) -> str:
        """Turn a conversation into a prompt.

        Raises:
            InputError: The bundle has no chat template, or it refuses the messages.
        """
        chat = self.film_chat if _shows_video(messages) else self.chat
        if chat is None:
            raise InputError(
                f"messages | got {len(messages)} | expected a prompt: bundle {self._bundle.path} "
                "has no chat template | give prompt= in the model's own format"
            )
        return chat.render(messages)

    def encode(self, text: str) -> list[int]:
        """Turn a text into token ids.

        Raises:
            InputError: The bundle has no tokenizer, or this is no text.
        """
        if self.tokenizer is None:
            raise InputError(
                f"prompt | got a text | expected embeddings: bundle {self._bundle.path} has no "
                "tokenizer | call generate_from_embeds, or export from a checkpoint with one"
            )
        return self.tokenizer.encode(text)


def _shows_video(messages: Sequence[Mapping[str, Any]]) -> bool:
    """Whether a part of a message is a video; messages are checked elsewhere."""
    contents = [one.get("content") for one in messages if isinstance(one, Mapping)]
    parts = [part for content in contents if isinstance(content, list) for part in content]
    return any(isinstance(part, Mapping) and part.get("type") == "video" for part in parts)
