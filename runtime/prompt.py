"""From text and images to the embeddings that the first stage reads."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from sparsevlm_trt.runtime.boundary import Layout
from sparsevlm_trt.runtime.chain import Chain
from sparsevlm_trt.runtime.device_array import joined
from sparsevlm_trt.runtime.errors import InputError
from sparsevlm_trt.runtime.manifest import Manifest, VisionSpec
from sparsevlm_trt.runtime.processor import Processor
from sparsevlm_trt.runtime.runner import Array, Tensor
from sparsevlm_trt.runtime.trace import Clock

if TYPE_CHECKING:  # importing Pillow takes time that arrays do not need
    from sparsevlm_trt.runtime.image_config import ImageConfig

__all__ = ["Messages", "Prompt", "prompt_from_embeds", "prompt_from_text"]

Messages = Sequence[Mapping[str, Any]]


@dataclass(frozen=True, slots=True, eq=False)
class Prompt:
    """What the first stage reads.

    Attributes:
        embeds: `[B, S, N]` of the model's dtype, contiguous.
        layout: Where the visual block lies.
        image_config: How its images became pixels; None without images.
    """

    embeds: Tensor
    layout: Layout
    image_config: ImageConfig | None = None


def prompt_from_text(
    chain: Chain,
    manifest: Manifest,
    processor: Processor,
    clock: Clock,
    *,
    images: Any = None,
    prompt: str | None = None,
    messages: Messages | None = None,
) -> Prompt:
    """Read a text with its images.

    The first image, and those that follow it without a token between, make the visual block that
    may be pruned; later images are text to the method, and stay whole.

    Args:
        chain: Runs `embed` and `vision`.
        manifest: Describes the bundle.
        processor: Reads text and pixels.
        clock: Takes the time of the graphs, and sets aside that of tokenizer and pixels.
        images: One image or a sequence of them: paths, Pillow images or uint8 arrays.
        prompt: Used as it is, with one image placeholder for each image.
        messages: A conversation for the chat template, in place of a prompt.

    Raises:
        InputError: Not one of prompt and messages, an image cannot be read or the model has no
            vision, the placeholders are not as many as the images, or the prompt is empty or
            longer than the model's positions.
    """
    if (prompt is None) == (messages is None):
        raise InputError(
            f"prompt | got {'neither' if prompt is None else 'both'} of prompt and messages | "
            "expected one of the two | leave one out"
        )
    listed = _listed(images)
    vision = manifest.vision
    if listed and vision is None:
        raise InputError(
            f"images | got {len(listed)} | expected none: the bundle has no vision graph | "
            "export from a checkpoint with a vision tower"
        )
    started = time.perf_counter()
    text = processor.render(messages) if messages is not None else prompt
    assert text is not None
    ids = np.array(processor.encode(text), np.int64)
    clock.set_aside("tokenize", started)
    places = [] if vision is None else np.flatnonzero(ids == vision.image_token_id).tolist()
    if len(places) != len(listed):
        raise InputError(
            f"prompt | got {len(places)} image placeholders and {len(listed)} images | expected "
            "as many placeholders as images | write <image> for each image, or a message part "
            '{"type": "image"}'
        )
    # Before any graph runs: an endless prompt must not first become embeddings.
    _check_length(len(ids) + (len(places) * (vision.num_visual - 1) if vision else 0), manifest)
    if not listed:
        return Prompt(chain.embed(ids[None], clock), Layout(len(ids), 0, 0))
    assert vision is not None
    started = time.perf_counter()
    pixels = processor.images(listed)
    clock.set_aside("images", started)
    _check_pixels(pixels, vision)
    features = chain.vision(pixels, clock)
    # The placeholder may lie beyond the embedding table; its row is not used.
    words = chain.embed(np.where(ids == vision.image_token_id, 0, ids)[None], clock)
    parts, start = [], 0
    for number, place in enumerate(places):
        parts += [words[:, start:place], features[number : number + 1]]
        start = place + 1
    parts.append(words[:, start:])
    embeds = joined(parts, 1, chain.empty)
    run = sum(place - number == places[0] for number, place in enumerate(places))
    num_visual = run * features.shape[1]
    layout = Layout(places[0], num_visual, embeds.shape[1] - places[0] - num_visual)
    return Prompt(embeds, layout, processor.images.config)


def prompt_from_embeds(
    chain: Chain, manifest: Manifest, embeds: Array, prefix_length: int, num_visual: int
) -> Prompt:
    """Take embeddings as they are.

    Args:
        chain: Names the model's dtype.
        manifest: Describes the bundle.
        embeds: `[B, S, N]`, any float type.
        prefix_length: Tokens before the visual block.
        num_visual: Tokens of the visual block, 0 for none.

    Raises:
        InputError: Another shape or type, a block that does not fit, or more tokens than the
            model has positions.
    """
    hidden = manifest.model.hidden_size
    if not isinstance(embeds, np.ndarray) or embeds.dtype.kind != "f":
        got = embeds.dtype if isinstance(embeds, np.ndarray) else type(embeds).__name__
        raise InputError(
            f"inputs_embeds | got {got} | expected a numpy array of floats | convert it first"
        )
    if embeds.ndim != 3 or embeds.shape[2] != hidden or 0 in embeds.shape:
        raise InputError(
            f"inputs_embeds | got shape {list(embeds.shape)} | expected [S, {hidden}] or "
            f"[B, S, {hidden}] with at least one row and token | check the hidden size"
        )
    length = embeds.shape[1]
    if prefix_length < 0 or num_visual < 0 or prefix_length + num_visual > length:
        raise InputError(
            f"layout | got prefix_length {prefix_length} and num_visual {num_visual} | expected "
            f"0 or more, and together at most the {length} tokens of the prompt | count again"
        )
    _check_length(length, manifest)
    layout = Layout(prefix_length, num_visual, length - prefix_length - num_visual)
    return Prompt(np.ascontiguousarray(embeds, chain.dtype), layout)


def _listed(images: Any) -> list[Any]:
    """Return the images as a list; one image stands for a list of one."""
    if images is None:
        return []
    return list(images) if isinstance(images, (list, tuple)) else [images]


def _check_length(length: int, manifest: Manifest) -> None:
    """Refuse an empty prompt, and one that is longer than the model's positions."""
    most = manifest.model.max_position
    if not 1 <= length <= most:
        raise InputError(
            f"prompt | got {length} tokens | expected 1 to {most}, the positions of the model | "
            + ("shorten it" if length else "write one")
        )


def _check_pixels(pixels: Array, vision: VisionSpec) -> None:
    """Refuse pixels of a size that the vision graph was not exported for."""
    if pixels.shape[2:] != vision.image_size:
        raise InputError(
            f"images | got {list(pixels.shape[2:])} pixels after preprocessing | expected "
            f"{list(vision.image_size)} | export the bundle again: its preprocessing and its "
            "vision graph disagree"
        )
