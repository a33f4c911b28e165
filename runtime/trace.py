"""What a run did and how long it took: decisions, bytes and times, in one place with units."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:  # importing Pillow takes time that arrays do not need
    from PIL import Image

    from sparsevlm_trt.runtime.gallery import Images
    from sparsevlm_trt.runtime.image_config import ImageConfig

__all__ = [
    "Clock",
    "StageTrace",
    "Trace",
    "block_patches",
    "follow_patches",
    "grid_positions",
]

Index = NDArray[np.int64]
MERGED = -1  # the patch number of a token that is the mean of several
WORD = -2  # of a word between images


@dataclass(frozen=True, slots=True, eq=False)
class StageTrace:
    """One prune step.

    Attributes:
        layer: The decoder layer on whose output it acted.
        num_visual_in: Visual tokens before it.
        num_visual_out: Visual tokens after it, merged ones among them.
        num_merged: Tokens made of dropped ones; they stand behind the kept ones.
        kept: Kept tokens, ascending, counted in the visual block of this stage, `[K]` int64.
        scores: Visual scores, `[V]` float32.
        merge_candidates: Dropped tokens that were merged, by descending score, `[M]` int64.
        patches: The image patch of each token after the step, in sequence order, counted in the
            visual block of the prompt; -1 for a merged token, -2 for a word between images.
            `[num_visual_out]` int64.
    """

    layer: int
    num_visual_in: int
    num_visual_out: int
    num_merged: int
    kept: Index
    scores: NDArray[np.float32]
    merge_candidates: Index
    patches: Index


@dataclass(frozen=True, slots=True, eq=False)
class Trace:
    """One answer: what was dropped, what was remembered, and the time of each step.

    Attributes:
        method: The pruning method asked for.
        prefix_length: Tokens before the visual block.
        num_visual: Tokens in the block that may be pruned; 0 without an image.
        num_text: Tokens after the block.
        grid: Rows and columns of patches of one image; None without a vision graph.
        stages: One entry for each boundary that pruned, first to last.
        cache_lengths: Entries remembered by each stage at the end.
        kv_bytes: Bytes of keys and values in use at the end, each stage.
        timings_ms: (step, milliseconds) of all that came before the first token, in order:
            tokenizing and image preprocessing, then each graph.
        prefill_ms: From the model's inputs (pixels, token ids) to the first logits; of prompts
            that were answered together, the time of all.
        decode_ms: Each decode step, from its token to the next logits, of all rows together.
        host_prefill_ms: The part of `prefill_ms` outside the graphs.
        host_decode_ms: The part of each of `decode_ms` outside the graphs.
        image_config: How the images became pixels; None for a prompt without, or of embeddings.
        words: Tokens of the block that are words between images, counted in it.
    """

    method: str
    prefix_length: int
    num_visual: int
    num_text: int
    grid: tuple[int, int] | None
    stages: tuple[StageTrace, ...]
    cache_lengths: tuple[int, ...]
    kv_bytes: tuple[int, ...]
    timings_ms: tuple[tuple[str, float], ...]
    prefill_ms: float
    decode_ms: tuple[float, ...]
    host_prefill_ms: float
    host_decode_ms: tuple[float, ...]
    image_config: ImageConfig | None = None
    words: tuple[int, ...] = ()

    @property
    def num_patches(self) -> int:
        """Visual tokens of the block, without the words between its images."""
        return self.num_visual - len(self.words)

    @property
    def kv_bytes_total(self) -> int:
        """Bytes of keys and values in use at the end."""
        return sum(self.kv_bytes)

    @property
    def host_ms(self) -> float:
        """Time outside the graphs, prefill and decode steps, without preprocessing."""
        return self.host_prefill_ms + sum(self.host_decode_ms)

    def overlay(self, image: Images, stage: int, *, number: int = 0) -> Image.Image:
        """Draw what a prune step did: kept patches clear, recycled ones tinted, dropped ones dim.

        Args:
            image: What was asked about, as it was given; it is cropped as the model saw it. Of
                several images the whole list.
            stage: Which of `stages`; negative numbers count from the end.
            number: Which image of the visual block.

        Raises:
            InputError: The image cannot be read, or there is no such step or image.
        """
        from sparsevlm_trt.runtime.gallery import image_seen, stage_pictures

        return stage_pictures(self, image_seen(self, image, number), stage, number).overlay

    def strip(
        self, image: Images, *, question: str | None = None, answer: str | None = None
    ) -> Image.Image:
        """Draw all prune steps and their visual scores side by side, with captions.

        Args:
            image: What was asked about, as it was given, or the list of all images.
            question: Written above the pictures.
            answer: Written below it.

        Raises:
            InputError: There was no image, or it cannot be read.
        """
        from sparsevlm_trt.runtime.gallery import galleries
        from sparsevlm_trt.runtime.strip import draw_strip

        return draw_strip(galleries(self, image), question=question, answer=answer)

    def page(
        self, image: Images, *, question: str | None = None, answer: str | None = None
    ) -> str:
        """Write the pictures of `strip` as an HTML page that needs no other file.

        Args:
            image: What was asked about, as it was given, or the list of all images.
            question: Written above the pictures.
            answer: Written below it.

        Raises:
            InputError: There was no image, or it cannot be read.
        """
        from sparsevlm_trt.runtime.gallery import galleries
        from sparsevlm_trt.runtime.picture_page import picture_page

        return picture_page(galleries(self, image), question=question, answer=answer)


@dataclass(slots=True)
class Clock:
    """Adds up the time of the graphs, so that what is left is the host's.

    Attributes:
        steps: (step, milliseconds) of each graph since the last `lap`.
        aside: (step, milliseconds) of what counts for no phase: the work before the model.
    """

    steps: list[tuple[str, float]] = field(default_factory=list)
    aside: list[tuple[str, float]] = field(default_factory=list)
    _start: float = field(default_factory=time.perf_counter)

    def add(self, step: str, started: float) -> None:
        """Record a step that began at `time.perf_counter()` value `started`."""
        self.steps.append((step, (time.perf_counter() - started) * 1e3))

    def set_aside(self, step: str, started: float) -> None:
        """Record a step that began at `started`, and take its time out of the phase."""
        elapsed = time.perf_counter() - started
        self.aside.append((step, elapsed * 1e3))
        self._start += elapsed

    def lap(self) -> tuple[float, float]:
        """End a phase: return its wall and host milliseconds, and begin the next one."""
        now = time.perf_counter()
        wall = (now - self._start) * 1e3
        host = wall - sum(ms for _, ms in self.steps)
        self.steps = []
        self._start = now
        return wall, host

    def restart(self) -> None:
        """Begin a phase now: what came before belongs to none."""
        self.steps = []
        self._start = time.perf_counter()


def block_patches(num_visual: int, words: Sequence[int]) -> Index:
    """Number the visual tokens of a block, `[num_visual]`, `WORD` for the words in it."""
    patches: Index = np.full(num_visual, WORD, np.int64)
    is_visual = np.ones(num_visual, np.bool_)
    is_visual[list(words)] = False
    patches[is_visual] = np.arange(int(is_visual.sum()))
    return patches


def follow_patches(patches: Index, kept: Index, num_merged: int) -> Index:
    """Carry patch numbers through a prune step.

    Args:
        patches: The patch of each visual token before it, `[V]`.
        kept: The tokens kept, `[K]`.
        num_merged: Merged tokens behind them.

    Returns:
        The patch of each token after it, `[K + num_merged]`, -1 where merged.
    """
    merged: Index = np.full(num_merged, MERGED, np.int64)
    return np.concatenate([patches[kept], merged])


def grid_positions(patches: Sequence[int] | NDArray[Any], grid: tuple[int, int]) -> Index:
    """Turn patch numbers into rows and columns.

    Args:
        patches: Patch numbers `[n]`, -1 for merged tokens.
        grid: Rows and columns of one image.

    Returns:
        (row, column) of each, `[n, 2]`, (-1, -1) where merged. Images of one block lie below each
        other: row // grid[0] is the image.
    """
    index = np.asarray(patches, np.int64)
    merged = (index < 0)[:, None]
    return np.where(merged, MERGED, np.stack(np.divmod(index, grid[1]), axis=-1))
