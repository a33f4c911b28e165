"""A bundle of a model's shape with noise for weights: what a timing needs, without the model.

    python benchmarks/shape_bundle.py FOLDER [--shape 7b] [--graphs-only]
    python benchmarks/shape_bundle.py FOLDER --fill

The export is the real one, from a checkpoint whose large tensors are holes in a sparse file: equal
bytes are stored once, so a 7B model is a gigabyte on disk while an engine still holds all of its
14 GB. Holes are no weights to time (products of zeros draw less power and run faster), so each
weight file is then filled with noise. `--graphs-only` leaves the weight files out: a few megabytes
to carry to another machine, where `--fill` makes them.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import click
import numpy as np
import torch
from llava_shapes import llava_7b_config, tiny_config
from tokenizers import Tokenizer, models
from transformers import LlavaConfig, LlavaForConditionalGeneration

from sparsevlm_trt.runtime.manifest import Manifest

NOISE_STD = 0.02  # as models are initialised: activations stay within float16
_SMALL = 1 << 20  # values; larger tensors of the language model are holes
_NOISE_VALUES = 1 << 24


SHAPES: dict[str, Callable[[], LlavaConfig]] = {"7b": llava_7b_config, "tiny": tiny_config}


def export_shape(config: LlavaConfig, out: Path, dtype: str = "float16") -> None:
    """Export a bundle of this shape; its large weights are zeros."""
    from sparsevlm_trt.export import export_bundle

    checkpoint = out.with_name(f"{out.name}-checkpoint")
    shutil.rmtree(checkpoint, ignore_errors=True)
    try:
        _write_checkpoint(config, checkpoint)
        export_bundle(
            checkpoint,
            out,
            dtype=dtype,
            progress=lambda name, number, total: click.echo(f"{number + 1}/{total} {name}"),
        )
    finally:
        shutil.rmtree(checkpoint, ignore_errors=True)


def fill(bundle: Path) -> int:
    """Write noise into every weight file that the manifest names; returns their bytes."""
    manifest = Manifest.from_text((bundle / "bundle.json").read_bytes())
    dtype = np.dtype(manifest.model.dtype)
    noise = np.random.default_rng(0).standard_normal(_NOISE_VALUES, np.float32) * NOISE_STD
    chunk = noise.astype(dtype).tobytes()
    total = 0
    for number, (name, spec) in enumerate(sorted(manifest.files.items())):
        if not name.startswith("graphs/weights/"):
            continue
        path = bundle / name
        path.parent.mkdir(parents=True, exist_ok=True)
        shift = number * 7919 * dtype.itemsize  # no two files alike
        with path.open("wb") as file:
            left = spec.size_bytes
            while left:
                piece = chunk[shift : shift + left]
                left -= file.write(piece)
                shift = 0
        total += spec.size_bytes
    return total


def _write_checkpoint(config: LlavaConfig, folder: Path) -> None:
    """Write a checkpoint in one sparse file of safetensors."""
    folder.mkdir(parents=True)
    with torch.device("meta"):
        model = LlavaForConditionalGeneration(config)
    header: dict[str, object] = {}
    small: list[tuple[int, str, torch.Size]] = []
    offset = 0
    for name, parameter in model.state_dict().items():
        stop = offset + 2 * parameter.numel()
        shape = list(parameter.shape)
        header[name] = {"dtype": "F16", "shape": shape, "data_offsets": [offset, stop]}
        # The vision tower is traced with its weights, and tensors of equal content are merged.
        if "language_model" not in name or parameter.numel() < _SMALL:
            small.append((offset, name, parameter.shape))
        offset = stop
    text = json.dumps(header).encode("ascii")
    text += b" " * (-len(text) % 8)
    generator = torch.Generator().manual_seed(0)
    with (folder / "model.safetensors").open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        start = file.tell()
        file.truncate(start + offset)
        for place, name, shape in small:
            is_norm = "norm" in name and name.endswith("weight")
            values = torch.randn(shape, generator=generator) * NOISE_STD + float(is_norm)
            file.seek(start + place)
            file.write(values.half().numpy().tobytes())
    config.save_pretrained(folder)
    Tokenizer(models.BPE()).save(str(folder / "tokenizer.json"))
    size = {"shortest_edge": config.vision_config.image_size}
    processor = {"image_processor_type": "CLIPImageProcessor", "size": size}
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--shape", type=click.Choice(sorted(SHAPES)), default="7b", show_default=True)
@click.option("--graphs-only", is_flag=True, help="Leave the weight files out.")
@click.option("--fill", "fill_only", is_flag=True, help="Make the weight files of a bundle.")
def main(folder: Path, shape: str, graphs_only: bool, fill_only: bool) -> None:
    """Make a bundle of a model's shape, or the weights of one."""
    if graphs_only and fill_only:
        sys.exit("--graphs-only and --fill exclude each other")
    if not fill_only:
        export_shape(SHAPES[shape](), folder)
    if graphs_only:
        shutil.rmtree(folder / "graphs/weights")
    else:
        click.echo(f"{fill(folder) / 1e9:.2f} GB of noise in {folder}")


if __name__ == "__main__":
    main()
