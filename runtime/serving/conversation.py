"""A chat request as what the engine takes: a conversation, pictures and checked options."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from PIL import Image

from sparsevlm_trt.runtime.manifest import Manifest
from sparsevlm_trt.runtime.request import Options, Request, make_request
from sparsevlm_trt.runtime.serving.chat_request import ChatRequest, ImagePart, Message, TextPart
from sparsevlm_trt.runtime.serving.pictures import Fetch, picture_from_url
from sparsevlm_trt.runtime.serving.refusal import RefusalError
from sparsevlm_trt.runtime.serving.settings import ImageLimits, Settings

__all__ = ["Conversation", "options_of", "read_conversation"]


@dataclass(frozen=True, slots=True, eq=False)
class Conversation:
    """Messages for the chat template, and the pictures that they name, in order."""

    messages: list[dict[str, Any]]
    images: list[Image.Image]


def read_conversation(body: ChatRequest, limits: ImageLimits, fetch: Fetch) -> Conversation:
    """Read messages; decodes pictures, so it takes its time.

    Raises:
        RefusalError: Too many pictures, or one that is not allowed or cannot be read.
    """
    urls = [
        part.image_url.url
        for message in body.messages
        if not isinstance(message.content, str)
        for part in message.content
        if isinstance(part, ImagePart)
    ]
    if len(urls) > limits.per_request:
        raise RefusalError(
            400,
            "too_many_images",
            f"messages | got {len(urls)} pictures | expected at most {limits.per_request} | "
            "leave some out",
        )
    images = [picture_from_url(url, limits, fetch) for url in urls]
    return Conversation([_plain(message) for message in body.messages], images)


def options_of(
    body: ChatRequest, manifest: Manifest, settings: Settings, default: Options
) -> Request:
    """Check the options of a request.

    Args:
        body: The request.
        manifest: Describes the bundle.
        settings: Limits and defaults of the server.
        default: Budget and method in force for requests that name none.

    Raises:
        InputError: An option is out of range.
        PlanError: The bundle cannot follow the method, budget or schedule.
        RefusalError: More tokens than the server makes.
    """
    most = settings.max_new_tokens
    asked = body.num_new_tokens
    if asked is not None and asked > most:
        raise RefusalError(
            400,
            "too_many_tokens",
            f"max_tokens | got {asked} | expected at most {most} | ask for fewer",
        )
    ours = body.sparsevlm
    options = Options(
        max_new_tokens=min(asked or settings.default_new_tokens, most),
        temperature=0.0 if body.temperature is None else body.temperature,
        top_p=1.0 if body.top_p is None else body.top_p,
        seed=body.seed,
        stop=() if body.stop is None else body.stop,
        keep_logits=False,
    )
    if ours is not None and ours.ignore_eos:
        options["stop_tokens"] = ()
    if ours is not None and ours.names_plan:
        options["budget"], options["schedule"] = ours.budget, ours.schedule
        options["method"] = ours.method
    else:
        options.update(default)
    return make_request(manifest, options)


def _plain(message: Message) -> dict[str, Any]:
    """Spell a message for the chat template; without pictures its content is one text."""
    content = message.content
    if isinstance(content, str):
        return {"role": message.role, "content": content}
    texts = [part.text for part in content if isinstance(part, TextPart)]
    if len(texts) == len(content):  # templates of plain language models take no list of parts
        return {"role": message.role, "content": "\n".join(texts)}
    parts = [
        {"type": "text", "text": part.text} if isinstance(part, TextPart) else {"type": "image"}
        for part in content
    ]
    return {"role": message.role, "content": parts}
