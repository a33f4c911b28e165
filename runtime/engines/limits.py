"""The largest requests that a bundle's engines are built for."""

from __future__ import annotations

from dataclasses import dataclass

from sparsevlm_trt.runtime.errors import EngineError
from sparsevlm_trt.runtime.manifest import Manifest, VisionSpec

__all__ = ["CAPACITY_STEP", "Limits", "largest_image"]

# Tokens around the images of a prompt, and of an answer, that are room enough for most questions.
_TEXT_TOKENS, _NEW_TOKENS = 448, 256

# Caches that rows share grow by so much, and run up to twice as much ahead of the longest row.
CAPACITY_STEP = 64


@dataclass(frozen=True, slots=True)
class Limits:
    """The largest request; an engine refuses anything larger.

    Attributes:
        max_prompt: Tokens of a prompt, visual ones included.
        max_new_tokens: Tokens of an answer.
        max_batch: Rows of one call.
        max_images: Images of one prompt, all rows together.
    """

    max_prompt: int
    max_new_tokens: int
    max_batch: int
    max_images: int

    @classmethod
    def of(
        cls,
        manifest: Manifest,
        *,
        max_prompt: int | None = None,
        max_new_tokens: int | None = None,
        max_batch: int = 1,
        max_images: int = 1,
    ) -> Limits:
        """Fill in what is not given: room for the images, a question and an answer.

        Raises:
            EngineError: The model has too few positions, or the images alone fill the prompt.
        """
        visual = largest_image(manifest.vision)[0] * max_images if manifest.vision else 0
        room = manifest.model.max_position
        if max_new_tokens is None:
            max_new_tokens = min(_NEW_TOKENS, max(1, room // 4))
        if max_prompt is None:
            max_prompt = min(visual + _TEXT_TOKENS, room - max_new_tokens)
        limits = cls(max_prompt, max_new_tokens, max_batch, max_images)
        if max_prompt + max_new_tokens > room:
            raise EngineError(
                f"limits | got {max_prompt} prompt and {max_new_tokens} new tokens | expected "
                f"{room} in all at most, the model's positions | lower --max-prompt or "
                "--max-new-tokens"
            )
        if visual >= max_prompt:
            raise EngineError(
                f"limits | got {max_images} images of {visual // max_images} tokens in a prompt "
                f"of {max_prompt} | expected room for a question beside them | raise "
                "--max-prompt or lower --max-images"
            )
        return limits

    @property
    def capacity(self) -> int:
        """Entries of the longest cache: prompt and answer, and what `slots` reserves ahead."""
        return ((self.max_prompt + self.max_new_tokens) // CAPACITY_STEP + 2) * CAPACITY_STEP


def largest_image(vision: VisionSpec) -> tuple[int, int]:
    """Bound what one image can become.

    Returns:
        Tokens of the prompt, and rows of the vision graph: crops, where the layout cuts.
    """
    tokens, rows = vision.num_visual, 1
    most = vision.settings.get("max_tiles", 0)
    for height, width in vision.resolutions:
        down, across = height // vision.image_size[0], width // vision.image_size[1]
        lines, columns = down * vision.grid[0], across * vision.grid[1]
        shown = lines * columns
        if most:  # larger maps are shrunk to about so many tiles
            shown = min(shown, round(1.21 * most * vision.num_visual) + 1)
        tokens = max(tokens, vision.num_visual + shown + lines)
        rows = max(rows, 1 + down * across)
    return tokens, rows
