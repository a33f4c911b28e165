"""A tower that sees patches of any number of images at once (Qwen2-VL and after).

Who looks at whom is a mask made in the graph from a number for each patch: patches of one frame
see each other, and in most layers of Qwen2.5-VL only those of one window. The order of patches is
free, so windows need no sorting.

Dims: P patches, D head size, N hidden size, M merged patches (tokens).
Source: transformers 5.24, `Qwen2VisionTransformerPretrainedModel` and its successors.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PretrainedConfig

from sparsevlm_trt.export.graph_module import GraphModule
from sparsevlm_trt.runtime.model_spec import VisionSpec

__all__ = ["PatchTower", "patch_graph", "patch_spec"]

_PATCHES = 48  # of the example
# An image of no size of its own is described by one of as many tokens as the budgets are made for.
_TOKENS_ALONG = 24


class PatchTower(nn.Module):
    """Patch embedding, blocks and merger of a loaded model, with attention by mask."""

    def __init__(self, visual: Any, dtype: torch.dtype) -> None:
        """Take the model's `visual`."""
        super().__init__()
        self.visual = visual
        self.dtype = dtype
        config = visual.config
        self.num_heads = config.num_heads
        self.is_full = [
            not hasattr(config, "window_size") or layer in config.fullatt_block_indexes
            for layer in range(len(visual.blocks))
        ]
        self.has_table = hasattr(visual, "pos_embed")
        self.deepstack = list(getattr(visual, "deepstack_visual_indexes", []))

    @property
    def has_windows(self) -> bool:
        """Whether some layers look at a window only."""
        return not all(self.is_full)

    def forward(
        self,
        pixel_values: Tensor,
        patch_positions: Tensor,
        segments: Tensor,
        windows: Tensor | None = None,
        table_index: Tensor | None = None,
        table_weights: Tensor | None = None,
    ) -> Tensor | tuple[Tensor, ...]:
        """See patches.

        Args:
            pixel_values: `[P, channels x depth x height x width]`, float32.
            patch_positions: Row and column in the frame, `[P, 2]`, int64.
            segments: The frame of each, `[P]`, int64.
            windows: The window of each, `[P]`, int64; of a tower with windows.
            table_index: Entries of the learned positions, `[P, 4]`, int64; where it has them.
            table_weights: Their shares, `[P, 4]`, float32.

        Returns:
            `[M, N]` of the model's type; then the same for each layer that feeds the decoder's
            first layers, as `[M, layers x N]`.
        """
        visual = self.visual
        kernel = visual.patch_embed.proj  # its stride is its size: a product of each patch
        weight = kernel.weight.reshape(kernel.weight.shape[0], -1)
        hidden = F.linear(pixel_values.to(self.dtype), weight, kernel.bias)  # [P, N]
        if self.has_table:
            assert table_index is not None
            assert table_weights is not None
            entries = F.embedding(table_index, visual.pos_embed.weight).to(torch.float32)
            hidden = hidden + (entries * table_weights[..., None]).sum(dim=1).to(self.dtype)
        angles = patch_positions[..., None].to(torch.float32) * visual.rotary_pos_emb.inv_freq
        angles = angles.flatten(1)[None]  # [1, P, D/2]
        rotary = (angles.cos().to(self.dtype), angles.sin().to(self.dtype))
        frames = self._mask(segments)
        nearby = frames if windows is None else self._mask(windows)
        deep = []
        for number, block in enumerate(visual.blocks):
            mask = frames if self.is_full[number] else nearby
            hidden = hidden + self._attend(block.attn, _normed(block.norm1, hidden), rotary, mask)
            hidden = hidden + block.mlp(_normed(block.norm2, hidden))
            if number in self.deepstack:
                merger = visual.deepstack_merger_list[self.deepstack.index(number)]
                deep.append(merger(hidden))
        merged: Tensor = visual.merger(hidden)
        return (merged, torch.cat(deep, dim=1)) if deep else merged

    def _mask(self, groups: Tensor) -> Tensor:
        """Additive mask `[1, 1, P, P]`: 0 within a group, the type's minimum elsewhere."""
        same = groups[:, None] == groups[None, :]
        mask = torch.where(same, 0.0, torch.finfo(self.dtype).min).to(self.dtype)
        return mask[None, None]

    def _attend(
        self, attention: Any, hidden: Tensor, rotary: tuple[Tensor, Tensor], mask: Tensor
    ) -> Tensor:
        query, key, value = attention.qkv(hidden)[None].chunk(3, dim=-1)  # [1, P, H*D]
        cos, sin = rotary
        query = torch.onnx.ops.rotary_embedding(query, cos, sin, num_heads=self.num_heads)
        key = torch.onnx.ops.rotary_embedding(key, cos, sin, num_heads=self.num_heads)
        attended = torch.onnx.ops.attention(
            query, key, value, mask, q_num_heads=self.num_heads, kv_num_heads=self.num_heads
        )[0]
        projected: Tensor = attention.proj(attended[0])
        return projected


def patch_graph(tower: PatchTower) -> GraphModule:
    """Make the vision graph of such a tower."""
    width = tower.visual.patch_embed.proj.weight[0].numel()
    rows = {0: "num_patches"}
    each = torch.zeros(_PATCHES, dtype=torch.int64)
    inputs: dict[str, Tensor | list[Tensor]] = {
        "pixel_values": torch.zeros(_PATCHES, width),
        "patch_positions": torch.zeros(_PATCHES, 2, dtype=torch.int64),
        "segments": each.clone(),
    }
    if tower.has_windows:
        inputs["windows"] = each.clone()
    if tower.has_table:
        # A place for the windows that this tower does not have would be an input of the graph.
        inputs["table_index"] = torch.zeros(_PATCHES, 4, dtype=torch.int64)
        inputs["table_weights"] = torch.zeros(_PATCHES, 4)
    deep = ("deepstack_features",) if tower.deepstack else ()
    outputs = ("image_features", *deep)
    return GraphModule(
        name="vision",
        module=tower if not tower.has_table else _ByTable(tower),
        inputs=inputs,
        dynamic=dict.fromkeys(inputs, rows),
        outputs=outputs,
        output_axes={name: {0: "num_tokens"} for name in outputs},
    )


def patch_spec(config: PretrainedConfig, settings: Mapping[str, int]) -> VisionSpec:
    """Describe such a tower, by an image of `_TOKENS_ALONG` tokens across and down.

    Args:
        config: The whole model's config.
        settings: Of the layout, beyond those that all have.
    """
    vision = config.vision_config
    merge = vision.spatial_merge_size
    pixels = _TOKENS_ALONG * merge * vision.patch_size
    hidden = getattr(vision, "embed_dim", None) or vision.hidden_size
    inner = getattr(vision, "intermediate_size", None) or int(hidden * vision.mlp_ratio)
    return VisionSpec(
        num_visual=_TOKENS_ALONG**2,
        grid=(_TOKENS_ALONG, _TOKENS_ALONG),
        image_size=(pixels, pixels),
        image_token_id=config.image_token_id,
        hidden_size=hidden,
        intermediate_size=inner,
        num_layers=vision.depth,
        num_positions=(_TOKENS_ALONG * merge) ** 2,
        layout="patches",
        settings={
            "patch_size": vision.patch_size,
            "merge_size": merge,
            "temporal_patch_size": vision.temporal_patch_size,
            **settings,
        },
        video_token_id=config.video_token_id,
    )


class _ByTable(nn.Module):
    """A tower without windows, called without them."""

    def __init__(self, tower: PatchTower) -> None:
        super().__init__()
        self.tower = tower

    def forward(
        self,
        pixel_values: Tensor,
        patch_positions: Tensor,
        segments: Tensor,
        table_index: Tensor,
        table_weights: Tensor,
    ) -> Tensor | tuple[Tensor, ...]:
        made: Tensor | tuple[Tensor, ...] = self.tower(
            pixel_values, patch_positions, segments, None, table_index, table_weights
        )
        return made


def _normed(norm: Any, hidden: Tensor) -> Tensor:
    """Layer norm, or RMS norm in the one operator that ONNX has for it."""
    if isinstance(norm, nn.LayerNorm):
        normed: Tensor = norm(hidden)
        return normed
    return F.rms_norm(hidden, norm.weight.shape, norm.weight, norm.variance_epsilon)
