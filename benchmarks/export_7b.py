"""Export a LLaVA-1.5-7B-shaped checkpoint and measure what it costs.

    python benchmarks/export_7b.py WORKDIR [--json FILE] [--keep]

Makes a checkpoint of the real shape (random float16 weights, sharded safetensors, the published
config), exports it in a process of its own, and prints peak memory, time and bytes written against
the bars: RSS <= 10 GB, disk <= 1.05 x the weights, <= 15 minutes. Needs 30 GB of disk.
"""

from __future__ import annotations

import json
import resource
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import click
import torch
from bars import end_missed
from llava_shapes import llava_7b_config
from safetensors.torch import save_file
from tokenizers import Tokenizer, models
from transformers import LlavaConfig, LlavaForConditionalGeneration

SHARD_BYTES = 5_000_000_000
BARS = {"peak_rss_gb": 10.0, "disk_ratio": 1.05, "minutes": 15.0}


def random_tensors(config: LlavaConfig) -> Iterator[tuple[str, torch.Tensor]]:
    """Every weight of the model, float16, small random values; one at a time."""
    with torch.device("meta"):
        model = LlavaForConditionalGeneration(config)
    noise = torch.randn(1 << 20, generator=torch.Generator().manual_seed(0)).mul_(0.02).half()
    for number, (name, parameter) in enumerate(model.state_dict().items()):
        count = parameter.numel()
        # Tiled and shifted noise: as random as an export can tell, and made at memory speed; the
        # first number keeps equal shapes from being equal tensors.
        tiled = noise.roll(number * 7919).repeat(-(-count // noise.numel()))[:count].clone()
        tiled[0] = number / 1000
        yield name, tiled.reshape(parameter.shape)


def write_checkpoint(folder: Path, num_layers: int = 32) -> int:
    """Write the checkpoint; returns the bytes of its weights."""
    folder.mkdir(parents=True)
    config = llava_7b_config(num_layers)
    weight_map: dict[str, str] = {}
    shard: dict[str, torch.Tensor] = {}
    shard_bytes = total = 0
    number = 1

    def flush() -> None:
        nonlocal shard, shard_bytes, number
        file = f"model-{number:05d}.safetensors"
        save_file(shard, folder / file, metadata={"format": "pt"})
        weight_map.update(dict.fromkeys(shard, file))
        shard, shard_bytes, number = {}, 0, number + 1

    for name, tensor in random_tensors(config):
        shard[name] = tensor
        shard_bytes += tensor.nbytes
        total += tensor.nbytes
        if shard_bytes > SHARD_BYTES:
            flush()
    flush()
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    config.save_pretrained(folder)
    Tokenizer(models.BPE()).save(str(folder / "tokenizer.json"))
    size = {"shortest_edge": 336}
    processor = {"image_processor_type": "CLIPImageProcessor", "size": size}
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    return total


@click.command()
@click.argument("workdir", type=click.Path(path_type=Path))
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Write the result.")
@click.option("--keep", is_flag=True, help="Leave checkpoint and bundle in WORKDIR.")
def main(workdir: Path, json_file: Path | None, keep: bool) -> None:
    """Measure the export of a 7B-shaped model."""
    checkpoint, out = workdir / "llava-7b-shape", workdir / "llava-7b-bundle"
    if not checkpoint.is_dir():
        write_checkpoint(checkpoint)
    weights = sum(f.stat().st_size for f in checkpoint.glob("*.safetensors"))
    shutil.rmtree(out, ignore_errors=True)
    command = ["sparsevlm", "export", str(checkpoint), str(out), "--dtype", "float16"]
    start = time.perf_counter()
    subprocess.run(command, check=True)
    minutes = (time.perf_counter() - start) / 60
    peak_kb = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    written = sum(f.stat().st_size for f in out.rglob("*") if f.is_file())
    result = {
        "weights_gb": weights / 1e9,
        "bundle_gb": written / 1e9,
        "peak_rss_gb": peak_kb * 1024 / 1e9,
        "disk_ratio": written / weights,
        "minutes": minutes,
    }
    for name, value in result.items():
        bar = f"  (bar: {BARS[name]})" if name in BARS else ""
        click.echo(f"{name:12} {value:8.3f}{bar}")
    inspected = subprocess.run(
        ["sparsevlm", "inspect", str(out), "--text", "117", "--no-verify"],
        check=True,
        capture_output=True,
        text=True,
    )
    click.echo(inspected.stdout)
    if json_file is not None:
        json_file.write_text(json.dumps(result, indent=1, sort_keys=True) + "\n")
    if not keep:
        shutil.rmtree(workdir)
    missed = [name for name, bar in BARS.items() if result[name] > bar]
    if missed:
        end_missed(f"missed: {', '.join(missed)}")


if __name__ == "__main__":
    main()
