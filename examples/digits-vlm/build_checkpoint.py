"""Build the trained digits VLM as a plain HF checkpoint folder.

The base weights come out of public packages (see packages.py); what was trained is in weights/
and is merged into them. The same command always writes the same bytes.
"""

from __future__ import annotations

import argparse
import os
import shutil
import tempfile
from pathlib import Path

import torch
from base_weights import GRIDS, assemble
from lora import merge_delta, read_delta
from packages import DEFAULT_CACHE
from processor import save_processor

WEIGHTS = Path(__file__).parent / "weights"
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def build(out: Path, num_visual: int, delta: Path, cache: Path, dtype: str = "float32") -> None:
    """Write the checkpoint; the folder appears whole or not at all.

    Args:
        out: Folder to make; must not exist.
        num_visual: Visual tokens per image the checkpoint is for.
        delta: Weights file that train.py wrote.
        cache: Folder of the downloaded packages.
        dtype: Type of the stored weights; merging is always done in float32.

    Raises:
        ValueError: `out` exists, or the weights are for another number of visual tokens.
    """
    if out.exists():
        raise ValueError(f"{out} | exists | expected a new folder | remove it or name another")
    info, tensors = read_delta(delta)
    if info.num_visual != num_visual:
        raise ValueError(
            f"{delta.name} | made for {info.num_visual} visual tokens | expected {num_visual} | "
            f"pass --tokens {info.num_visual}"
        )
    model = assemble(num_visual, cache)
    merge_delta(model, info, tensors)
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
    try:
        model.to(DTYPES[dtype]).save_pretrained(partial)
        save_processor(partial, num_visual, cache)
        mask = _umask()
        for path in partial.iterdir():  # safetensors and mkdtemp make things private
            path.chmod(0o666 & ~mask)
        partial.chmod(0o777 & ~mask)
        partial.replace(out)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def _umask() -> int:
    """Return the process's file mode mask (reading it means setting it)."""
    mask = os.umask(0)
    os.umask(mask)
    return mask


def main() -> None:
    """Read the command line and build."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path, help="folder to make")
    parser.add_argument(
        "--tokens", type=int, choices=GRIDS, default=576, help="visual tokens per image"
    )
    parser.add_argument("--weights", type=Path, help="trained weights [weights/ of this folder]")
    parser.add_argument(
        "--cache", type=Path, default=DEFAULT_CACHE, help="downloads are kept here"
    )
    parser.add_argument("--dtype", choices=DTYPES, default="float32")
    args = parser.parse_args()
    delta = args.weights or WEIGHTS / f"digits-vlm-{args.tokens}.safetensors"
    try:
        build(args.out, args.tokens, delta, args.cache, args.dtype)
    except (ValueError, RuntimeError) as error:
        parser.exit(1, f"error: {error}\n")


if __name__ == "__main__":
    main()
