"""The largest requests that a bundle's engines are built for."""

from __future__ import annotations

from dataclasses import dataclass

from sparsevlm_trt.runtime.bundle import Bundle
from sparsevlm_trt.runtime.engines.image_bounds import ImageBounds, image_bounds
from sparsevlm_trt.runtime.errors import EngineError

__all__ = ["CAPACITY_STEP", "Limits"]

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
        image: What one image can be; None where the bundle sees none.
    """

    max_prompt: int
    max_new_tokens: int
    max_batch: int
    max_images: int
    image: ImageBounds | None = None

    @classmethod
    def of(
        cls,
        bundle: Bundle,
        *,
        max_prompt: int | None = None,
        max_new_tokens: int | None = None,
        max_batch: int = 1,
        max_images: int = 1,
        max_image_pixels: int | None = None,
    ) -> Limits:
        """Fill in what is not given: room for the images, a question and an answer.

        Args:
            bundle: The bundle; its processor files tell how large an image can be.
            max_prompt: As the attribute.
            max_new_tokens: As the attribute.
            max_batch: As the attribute.
            max_images: As the attribute.
            max_image_pixels: Pixels of the largest image; see `image_bounds`.

        Raises:
            EngineError: The model has too few positions, the images alone fill the prompt, or the
                pixels cannot be met.
            BundleError: The processor files cannot be followed.
        """
        image = image_bounds(bundle, max_image_pixels)
        visual = image.tokens * max_images if image else 0
        room = bundle.manifest.model.max_position
        if max_new_tokens is None:
            max_new_tokens = min(_NEW_TOKENS, max(1, room // 4))
        if max_prompt is None:
            max_prompt = min(visual + _TEXT_TOKENS, room - max_new_tokens)
        limits = cls(max_prompt, max_new_tokens, max_batch, max_images, image)
        if max_prompt + max_new_tokens > room:
            raise EngineError(
                f"limits | got {max_prompt} prompt and {max_new_tokens} new tokens | expected "
                f"{room} in all at most, the model's positions | lower --max-prompt or "
                "--max-new-tokens"
            )
        if visual >= max_prompt:
            smaller = ", --max-image-pixels" if image and image.pixels else ""
            raise EngineError(
                f"limits | got {max_images} images of {visual // max_images} tokens in a prompt "
                f"of {max_prompt} | expected room for a question beside them | raise "
                f"--max-prompt or lower --max-images{smaller}"
            )
        return limits

    @property
    def most_visual(self) -> int:
        """Tokens of the longest visual block: words between images are part of it."""
        if self.image is None or not self.image.is_block or self.max_images > 1:
            return self.max_prompt - 1
        return min(self.image.tokens, self.max_prompt - 1)

    @property
    def most_text(self) -> int:
        """Tokens of the longest text behind a visual block, at least one image."""
        return max(1, self.max_prompt - (self.image.least_tokens if self.image else 1))

    @property
    def most_rows(self) -> int:
        """Rows that the vision graph can be asked for at once: images, crops, tiles or patches."""
        return (self.image.rows if self.image else 1) * self.max_images

    @property
    def capacity(self) -> int:
        """Entries of the longest cache: prompt and answer, and what `slots` reserves ahead."""
        return ((self.max_prompt + self.max_new_tokens) // CAPACITY_STEP + 2) * CAPACITY_STEP
