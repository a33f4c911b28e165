"""The model of a bundle as its manifest describes it: the language model, and the vision tower."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from sparsevlm_trt.runtime.spec_checks import one_of, positive

__all__ = ["ModelSpec", "VisionSpec"]

MODEL_DTYPES = ("float32", "float16")
CACHE_DTYPES = (*MODEL_DTYPES, "int8")


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """The language model that was exported.

    A token has `num_axes` positions: one, or three (time, row, column) by M-RoPE. The vision tower
    feeds the outputs of the first `num_deepstack` layers too, all in the first stage; None: of no
    layer. Keys and values are remembered in `cache_dtype`; None: in `dtype`. Hidden states between
    layers are kept times 2^-k, k being `residual_shift`; None: as they are.
    """

    source: str
    model_type: str
    text_model_type: str
    weights_sha256: str
    dtype: str
    num_layers: int
    hidden_size: int
    intermediate_size: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    vocab_size: int
    max_position: int
    tied_head: bool
    num_axes: int = 1
    num_deepstack: int | None = field(default=None, metadata={"optional": True})
    cache_dtype: str | None = field(default=None, metadata={"optional": True})
    residual_shift: int | None = field(default=None, metadata={"optional": True})

    @property
    def residual_scale(self) -> float:
        """What hidden states between layers are kept times: 1, or a negative power of two."""
        return 2.0 ** -(self.residual_shift or 0)

    @property
    def kv_dtype(self) -> str:
        """Type of the KV cache."""
        return self.cache_dtype or self.dtype

    def problems(self, where: str) -> Iterator[str]:
        """Say what no model can be."""
        yield from one_of(f"{where}.dtype", self.dtype, MODEL_DTYPES)
        yield from one_of(f"{where}.cache_dtype", self.kv_dtype, CACHE_DTYPES)
        yield from positive(where, self)
        if self.num_kv_heads > 0 and self.num_heads % self.num_kv_heads:
            yield (
                f"{where}.num_kv_heads | got {self.num_kv_heads} | "
                f"expected a divisor of num_heads {self.num_heads}"
            )


@dataclass(frozen=True, slots=True)
class VisionSpec:
    """The vision tower that was exported; sizes in pixels, `[rows, columns]` as in an array.

    Attributes:
        num_visual: Tokens of one row of the graph: an image, a crop or a frame.
        grid: Rows and columns of those tokens.
        image_size: Pixels of such a row.
        image_token_id: Stands for an image in a prompt.
        hidden_size: Width of the tower.
        intermediate_size: Width of its MLP.
        num_layers: Layers of the tower.
        num_positions: Tokens that a layer sees of such a row.
        layout: How an image becomes tokens of a prompt, see `runtime/visuals`.
        resolutions: Pixels that an image is fitted into before it is cut, where the layout cuts.
        settings: Whole numbers that the layout needs, by name.
        video_token_id: Stands for a video in a prompt; None where no token does.
    """

    num_visual: int
    grid: tuple[int, int]
    image_size: tuple[int, int]
    image_token_id: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_positions: int
    layout: str = "block"
    resolutions: tuple[tuple[int, int], ...] = ()
    settings: Mapping[str, int] = field(default_factory=dict)
    video_token_id: int | None = None

    @property
    def video_mark(self) -> str:
        """What stands for a video in a prompt where no token does; empty where nothing does.

        Source: transformers 5.24, `SmolVLMProcessor.__init__`.
        """
        return "<video>" if self.setting("has_video_mark") else ""

    @property
    def takes_videos(self) -> bool:
        """Whether a prompt may have a video."""
        return self.video_token_id is not None or bool(self.video_mark)

    def problems(self, where: str) -> Iterator[str]:
        """Say what no vision tower can be."""
        yield from positive(where, self, but=("image_token_id", "video_token_id"))

    def setting(self, name: str) -> int:
        """A number of the layout, 0 where it is not given."""
        return self.settings.get(name, 0)
