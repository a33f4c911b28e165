"""From text and images to the embeddings that the first stage reads."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from sparsevlm_trt.runtime.boundary import Layout, Places
from sparsevlm_trt.runtime.chain import Chain
from sparsevlm_trt.runtime.device_array import joined
from sparsevlm_trt.runtime.errors import InputError
from sparsevlm_trt.runtime.manifest import Manifest
from sparsevlm_trt.runtime.placeholders import placeholder_ids, put_visuals
from sparsevlm_trt.runtime.processor import Processor
from sparsevlm_trt.runtime.runner import Array, Tensor
from sparsevlm_trt.runtime.trace import Clock
from sparsevlm_trt.runtime.visuals.given import listed_clips, listed_images

if TYPE_CHECKING:  # importing Pillow takes time that arrays do not need
    from sparsevlm_trt.runtime.image_config import ImageConfig
    from sparsevlm_trt.runtime.visuals.visual import Visual

__all__ = [
    "Messages",
    "Prompt",
    "Reading",
    "prompt_from_embeds",
    "prompt_from_text",
    "read_prompt",
]

Index: TypeAlias = NDArray[np.int64]
Messages = Sequence[Mapping[str, Any]]


@dataclass(frozen=True, slots=True, eq=False)
class Prompt:
    """What the first stage reads.

    Attributes:
        embeds: `[B, S, N]` of the model's dtype, contiguous.
        layout: Where the visual block lies.
        image_config: How its images became pixels; None without images.
        places: Positions of its tokens; None: one after the other.
        deepstack: What the first layers add, `[B, S, k*N]` of the model's dtype; None: nothing.
    """

    embeds: Tensor
    layout: Layout
    image_config: ImageConfig | None = None
    places: Places | None = None
    deepstack: Tensor | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Reading:
    """A prompt that was read, before any graph runs.

    Attributes:
        ids: All token ids, `[S]` int64, one placeholder for each visual token.
        visuals: Its images and videos, in the order of their placeholders.
        places: Where the visual tokens stand, ascending.
        layout: Where the visual block lies.
    """

    ids: Index
    visuals: tuple[Visual, ...]
    places: Index
    layout: Layout


def read_prompt(
    manifest: Manifest,
    processor: Processor,
    clock: Clock,
    *,
    images: Any = None,
    videos: Any = None,
    prompt: str | None = None,
    messages: Messages | None = None,
) -> Reading:
    """Read a text with its images and videos.

    All of them together make the visual block that may be pruned. Words between them are never
    dropped, and do not judge: the text after the last one does.

    Args:
        manifest: Describes the bundle.
        processor: Reads text and pixels.
        clock: Sets aside the time of tokenizer and pixels.
        images: One image or a sequence of them: paths, Pillow images or uint8 arrays.
        videos: One video or a sequence of them: paths of files, lists of images, or clips
            (`video_loader.load_video` with a number of frames).
        prompt: Used as it is, with one placeholder for each image and video.
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
    listed, clips = listed_images(images), listed_clips(videos)
    vision = manifest.vision
    if (listed or clips) and vision is None:
        raise InputError(
            f"images | got {len(listed) + len(clips)} | expected none: the bundle has no vision "
            "graph | export from a checkpoint with a vision tower"
        )
    started = time.perf_counter()
    text = processor.render(messages) if messages is not None else prompt
    assert text is not None
    rendering = time.perf_counter() - started
    visuals: tuple[Visual, ...] = ()
    if vision is not None:
        started = time.perf_counter()
        text, visuals = put_visuals(processor, text, listed, clips)
        clock.set_aside("images", started)
    started = time.perf_counter() - rendering
    ids = np.array(processor.encode(text), np.int64)
    clock.set_aside("tokenize", started)
    _check_length(len(ids), manifest)
    places: Index = np.flatnonzero(np.isin(ids, placeholder_ids(vision)))
    total = sum(visual.num_tokens for visual in visuals)
    if len(places) != total:
        raise InputError(
            f"prompt | got {len(places)} visual tokens | expected {total}, those of the images | "
            "write a placeholder with nothing but spaces around it"
        )
    if not total:
        return Reading(ids, (), places, Layout(len(ids), 0, 0))
    start, stop = int(places[0]), int(places[-1]) + 1
    words = np.setdiff1d(np.arange(stop - start), places - start).tolist()
    layout = Layout(start, stop - start, len(ids) - stop, tuple(words))
    return Reading(ids, visuals, places, layout)


def prompt_from_text(
    chain: Chain,
    manifest: Manifest,
    processor: Processor,
    clock: Clock,
    **given: Any,
) -> Prompt:
    """Read a text with its images, and run `vision` and `embed`.

    Args:
        chain: Runs the graphs.
        manifest: Describes the bundle.
        processor: Reads text and pixels.
        clock: Takes the time of the graphs, and sets aside that of tokenizer and pixels.
        given: The images, videos, prompt and messages of `read_prompt`.

    Raises:
        InputError: As `read_prompt`.
    """
    read = read_prompt(manifest, processor, clock, **given)
    if not read.visuals:
        return Prompt(chain.embed(read.ids[None], clock), read.layout)
    features, fed = chain.sight.visuals(read.visuals, processor.layout, clock)
    # The placeholder may lie beyond the embedding table; its row is not used.
    ids = read.ids.copy()
    ids[read.places] = 0
    words = chain.embed(ids[None], clock)
    embeds = _between(words, features, read.places, chain)
    deepstack = None
    if fed:  # words are fed nothing
        nothing = np.zeros((1, len(ids), fed[0].shape[2]), fed[0].dtype)
        deepstack = _between(nothing, fed, read.places, chain)
    config, places = processor.images.config, positions_of(read, manifest)
    return Prompt(embeds, read.layout, config, places, deepstack)


def positions_of(read: Reading, manifest: Manifest) -> Places | None:
    """Give the tokens of a prompt their positions; None: one after the other."""
    if manifest.model.num_axes == 1 or not read.visuals:
        return None
    from sparsevlm_trt.runtime.visuals.grids import token_positions

    starts = np.cumsum([0, *(visual.num_tokens for visual in read.visuals)])
    blocks = [
        (int(read.places[start + first]), cells, visual.interval)
        for start, visual in zip(starts[:-1], read.visuals, strict=True)
        for first, cells in visual.blocks
    ]
    return Places(*token_positions(len(read.ids), blocks))


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


def _between(words: Tensor, features: Sequence[Tensor], places: Index, chain: Chain) -> Tensor:
    """Put features `[1, n, *]` into the places of words `[1, S, *]`."""
    tokens = joined(features, 1, chain.empty)
    parts, start, used = [], 0, 0
    for place, count in _runs(places):
        parts += [words[:, start:place], tokens[:, used : used + count]]
        start, used = place + count, used + count
    return joined([*parts, words[:, start:]], 1, chain.empty)


def _runs(places: Index) -> list[tuple[int, int]]:
    """Group ascending places into runs without a gap: (first place, how many)."""
    edges = np.flatnonzero(np.diff(places) != 1) + 1
    return [(int(run[0]), len(run)) for run in np.split(places, edges)]


def _check_length(length: int, manifest: Manifest) -> None:
    """Refuse an empty prompt, and one that is longer than the model's positions."""
    most = manifest.model.max_position
    if not 1 <= length <= most:
        raise InputError(
            f"prompt | got {length} tokens | expected 1 to {most}, the positions of the model | "
            + ("shorten it" if length else "write one")
        )
