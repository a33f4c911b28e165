"""LLaVA checkpoints as its authors publish them: told apart, and where the converted ones are."""

from __future__ import annotations

import json
from pathlib import Path

from sparsevlm_trt.runtime.errors import ExportError

__all__ = ["refuse_original_llava"]

# The class an original checkpoint names -> the same model, converted for transformers.
_CONVERTED = {
    "LlavaLlamaForCausalLM": "llava-hf/llava-1.5-7b-hf (of 1.6: llava-v1.6-vicuna-7b-hf)",
    "LlavaMistralForCausalLM": "llava-hf/llava-v1.6-mistral-7b-hf",
    "LlavaMptForCausalLM": "llava-hf/llava-1.5-7b-hf: there is none of MPT",
    "LlavaQwenForCausalLM": "llava-hf/llava-onevision-qwen2-7b-ov-hf",
}
_OTHERS = "one of https://huggingface.co/llava-hf"
# In every original config, in no converted one.
_MARK = "mm_vision_tower"


def refuse_original_llava(checkpoint: Path) -> None:
    """Refuse a checkpoint whose tensors transformers has no names for.

    Args:
        checkpoint: Checkpoint folder with a `config.json`.

    Raises:
        ExportError: It is one of LLaVA's own; the sentence names a converted one.
    """
    try:
        config = json.loads((checkpoint / "config.json").read_text(encoding="utf-8"))
        named = [str(name) for name in config.get("architectures") or []]
    except (OSError, ValueError, AttributeError, TypeError):
        return  # whoever reads it next says what is wrong
    original = [name for name in named if name in _CONVERTED]
    if not original and _MARK not in config:
        return
    converted = _CONVERTED[original[0]] if original else _OTHERS
    raise ExportError(
        f"checkpoint {checkpoint} | got {named[0] if named else 'LLaVA'} in the layout of LLaVA's "
        f"authors | expected one converted for transformers | use {converted}; or convert your "
        "own with transformers' convert_llava_weights_to_hf.py"
    )
