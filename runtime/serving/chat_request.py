"""The body of `/v1/chat/completions`: OpenAI's fields that we honour, and ours; no others.

A field that would be ignored changes an answer silently, so each unknown one is refused.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

__all__ = ["ChatRequest", "ImagePart", "Message", "PruningFields", "TextPart"]

Count = Annotated[int, Field(strict=True, ge=1, le=1_000_000)]
# Strict floats still take whole numbers.
Number = Annotated[float, Field(strict=True, allow_inf_nan=False)]
Share = Annotated[float, Field(strict=True, gt=0, lt=1)]
StopText = Annotated[str, Field(min_length=1, max_length=256)]


class _Body(BaseModel):
    """A part of the body that takes no unknown field."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class TextPart(_Body):
    """A piece of text in a message."""

    type: Literal["text"]
    text: str


class ImageUrl(_Body):
    """Where a picture is: a data: URL, or an https URL of an allowed host."""

    url: str
    detail: Literal["auto"] = "auto"


class ImagePart(_Body):
    """A picture in a message."""

    type: Literal["image_url"]
    image_url: ImageUrl


Part = Annotated[TextPart | ImagePart, Field(discriminator="type")]


class Message(_Body):
    """One turn of the conversation."""

    role: Literal["system", "user", "assistant"]
    content: str | Annotated[list[Part], Field(min_length=1, max_length=256)]


class PruningFields(_Body):
    """Our own field, `sparsevlm`: how this request prunes, and what it wants to know of it.

    Attributes:
        budget: Nominal average of visual tokens in a layer, or a fraction of the prompt's.
        schedule: Tokens kept after each pruning layer, "2:300,6:200,15:110".
        method: Pruning method.
        patches: Whether the response lists the patches that survive each stage.
        seen: Whether it holds the pictures as the model saw them, cropped and scaled.
        ignore_eos: Whether the answer goes on behind the model's own end, as a benchmark needs it.
    """

    budget: Count | Share | None = None
    schedule: Annotated[str, Field(max_length=1000)] | None = None
    method: Annotated[str, Field(max_length=100)] | None = None
    patches: Annotated[bool, Field(strict=True)] = False
    seen: Annotated[bool, Field(strict=True)] = False
    ignore_eos: Annotated[bool, Field(strict=True)] = False

    @property
    def names_plan(self) -> bool:
        """Whether the request itself says how to prune."""
        return (self.budget, self.schedule, self.method) != (None, None, None)


class StreamOptions(_Body):
    """OpenAI's `stream_options`."""

    include_usage: Annotated[bool, Field(strict=True)] = False


class ChatRequest(_Body):
    """OpenAI's chat request, as far as it is honoured.

    `user` tells whose request it is: waiting requests are taken from the users in turn.
    """

    model: Annotated[str, Field(max_length=500)]
    messages: Annotated[list[Message], Field(min_length=1, max_length=1000)]
    max_tokens: Count | None = None
    max_completion_tokens: Count | None = None
    temperature: Number | None = None
    top_p: Number | None = None
    seed: Annotated[int, Field(strict=True, ge=0, lt=2**63)] | None = None
    stop: StopText | Annotated[list[StopText], Field(max_length=16)] | None = None
    stream: Annotated[bool, Field(strict=True)] | None = False
    stream_options: StreamOptions | None = None
    n: Literal[1] | None = 1
    user: Annotated[str, Field(max_length=200)] | None = None
    sparsevlm: PruningFields | None = None

    @property
    def num_new_tokens(self) -> int | None:
        """Tokens asked for, in whichever of OpenAI's two fields."""
        return self.max_completion_tokens or self.max_tokens
