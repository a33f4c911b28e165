"""What the two sides are asked: pictures and a question, or seeded random embeddings."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparsevlm_trt.runtime.answer_row import Result
from sparsevlm_trt.runtime.boundary import Layout
from sparsevlm_trt.runtime.errors import ParityError
from sparsevlm_trt.runtime.prompt import read_prompt
from sparsevlm_trt.runtime.session import Session
from sparsevlm_trt.runtime.trace import Clock
from sparsevlm_trt.runtime.visuals.visual import Visual

__all__ = [
    "DEFAULT_QUESTION",
    "ParityPrompt",
    "ask",
    "make_prompts",
    "prompt_from_image",
    "prompt_from_visuals",
]

DEFAULT_QUESTION = "What is in this picture, and where?"
# A bare language model has neither pictures nor, as a rule, a tokenizer.
_PREFIX_TOKENS, _TEXT_TOKENS = 5, 12


@dataclass(frozen=True, slots=True, eq=False)
class ParityPrompt:
    """One prompt, in the form that each side takes.

    Attributes:
        label: Names it in the report.
        layout: Where its visual block lies.
        text: The prompt's text with its placeholders, for the chain; None with embeddings.
        images: The images, for the chain.
        videos: The videos, for the chain.
        ids: Token ids with a placeholder for each visual token, `[S]` int64; None with
            embeddings.
        visuals: Images and videos as they were read, for the reference.
        embeds: `[S, N]` of the bundle's dtype; None with text.
        sha256: Hash of what is asked: ids and pixels, or embeddings.
    """

    label: str
    layout: Layout
    sha256: str
    text: str | None = None
    images: tuple[Any, ...] = ()
    videos: tuple[Any, ...] = ()
    ids: NDArray[np.int64] | None = None
    visuals: tuple[Visual, ...] = ()
    embeds: NDArray[Any] | None = None


def make_prompts(
    session: Session, images: Sequence[str | Path], question: str | None, seed: int
) -> list[ParityPrompt]:
    """Make one prompt for each image; without images, one that needs none of the user's.

    Args:
        session: The bundle's session; its processor reads texts and images.
        images: Image files.
        question: What to ask; a default without.
        seed: Of the synthetic image or the random embeddings.

    Raises:
        InputError: An image cannot be read, or the bundle has no tokenizer for a question.
        ParityError: Images for a bundle without vision.
    """
    if session.bundle.manifest.vision is None:
        if images:
            raise ParityError(
                f"images | got {len(images)} | expected none: the bundle has no vision graph | "
                "leave --images out: random embeddings stand for the image"
            )
        return [_from_embeddings(session, question, seed)]
    text = _render(session, DEFAULT_QUESTION if question is None else question)
    if not images:
        return [prompt_from_image(session, f"synthetic image, seed {seed}", _paint(seed), text)]
    return [prompt_from_image(session, Path(image).name, image, text) for image in images]


def ask(session: Session, prompt: ParityPrompt, **options: Any) -> Result:
    """Let the chain answer greedily; no token stops it."""
    options = {"stop_tokens": (), **options}
    if prompt.embeds is not None:
        layout = prompt.layout
        answer = session.generate_from_embeds(
            prompt.embeds, prefix_length=layout.prefix, num_visual=layout.num_visual, **options
        )
        assert isinstance(answer, Result)
        return answer
    return session.generate(
        images=list(prompt.images), videos=list(prompt.videos), prompt=prompt.text, **options
    )


def prompt_from_visuals(
    session: Session,
    label: str,
    text: str,
    *,
    images: Sequence[Any] = (),
    videos: Sequence[Any] = (),
) -> ParityPrompt:
    """Make a prompt of a text with placeholders.

    Args:
        session: The bundle's session.
        label: Names the prompt in the report.
        text: Used as it is.
        images: What `Session.generate` takes.
        videos: Likewise.

    Raises:
        InputError: As `Session.generate`.
    """
    read = read_prompt(
        session.bundle.manifest,
        session.processor,
        Clock(),
        images=list(images),
        videos=list(videos),
        prompt=text,
    )
    digest = hashlib.sha256(read.ids.tobytes())
    for visual in read.visuals:
        for array in visual.inputs.values():
            digest.update(np.ascontiguousarray(array).tobytes())
    return ParityPrompt(
        label=label,
        layout=read.layout,
        sha256=digest.hexdigest(),
        text=text,
        images=tuple(images),
        videos=tuple(videos),
        ids=read.ids,
        visuals=read.visuals,
    )


def prompt_from_image(session: Session, label: str, image: Any, text: str) -> ParityPrompt:
    """Make a prompt of a text with one image placeholder; see `prompt_from_visuals`."""
    return prompt_from_visuals(session, label, text, images=[image])


def _render(session: Session, question: str) -> str:
    """A question about an image, in the model's own form where the bundle knows it."""
    if session.processor.chat is None:
        return f"USER: {session.processor.placeholders[0]}\n{question} ASSISTANT:"
    parts = [{"type": "image"}, {"type": "text", "text": question}]
    return session.processor.render([{"role": "user", "content": parts}])


def _from_embeddings(session: Session, question: str | None, seed: int) -> ParityPrompt:
    manifest = session.bundle.manifest
    rng = np.random.default_rng(seed)
    vocab, hidden = manifest.model.vocab_size, manifest.model.hidden_size
    before = rng.integers(vocab, size=_PREFIX_TOKENS)
    after = rng.integers(vocab, size=_TEXT_TOKENS)
    if question is not None:
        after = np.array(session.processor.encode(question), np.int64)
    ids = np.concatenate([before, after]).astype(np.int64)
    words = np.asarray(session.chain.embed(ids[None], Clock()))[0]
    # Twice what the first boundary keeps, so that every boundary has something to drop.
    num_visual = 2 * max(manifest.plan.schedule.values(), default=32)
    num_visual = min(num_visual, manifest.model.max_position // 2)
    # As large as words are: a model that reads them has seen nothing else.
    block = rng.standard_normal((num_visual, hidden)) * float(words.astype(np.float64).std())
    embeds = np.concatenate([words[: len(before)], block, words[len(before) :]])
    embeds = embeds.astype(manifest.model.dtype)
    return ParityPrompt(
        label=f"random embeddings, seed {seed}",
        layout=Layout(len(before), num_visual, len(after)),
        sha256=hashlib.sha256(embeds.tobytes()).hexdigest(),
        embeds=embeds,
    )


def _paint(seed: int) -> NDArray[np.uint8]:
    """Paint coloured rectangles on a gradient: edges and plains, as a photograph has."""
    rng = np.random.default_rng(seed)
    side = 448
    across, down = np.meshgrid(np.linspace(0, 255, side), np.linspace(0, 255, side))
    picture = np.stack([across, down, 255 - across], axis=-1)
    for _ in range(24):
        left, top = rng.integers(side - 40, size=2)
        width, height = rng.integers(16, 160, size=2)
        picture[top : top + height, left : left + width] = rng.integers(256, size=3)
    picture += rng.normal(scale=6.0, size=picture.shape)
    return picture.clip(0, 255).astype(np.uint8)
