"""`sparsevlm compile`: build the TensorRT engines of a bundle."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

import click

from sparsevlm_trt.runtime.bundle import Bundle
from sparsevlm_trt.runtime.commands.options import debug_option, json_option
from sparsevlm_trt.runtime.console import Progress, print_json
from sparsevlm_trt.runtime.engines.cache import (
    DEFAULT_CACHE_BYTES,
    EngineCache,
    default_cache_folder,
)
from sparsevlm_trt.runtime.engines.compile import CompileJob, Outcome, check_precision
from sparsevlm_trt.runtime.engines.fusion import NOT_FUSED
from sparsevlm_trt.runtime.engines.limits import Limits
from sparsevlm_trt.runtime.engines.profiles import PROFILE_KINDS
from sparsevlm_trt.runtime.engines.task import Task
from sparsevlm_trt.runtime.memory import read_memory
from sparsevlm_trt.runtime.table import format_table
from sparsevlm_trt.runtime.tensorrt.build import BuildFlags
from sparsevlm_trt.runtime.tensorrt.library import TARGETS, load_library
from sparsevlm_trt.runtime.units import spell_bytes, spell_ms

__all__ = ["compile_bundle"]

# TensorRT-RTX stores the weights once for each profile; TensorRT picks its kernels by profile.
DEFAULT_PROFILES = {"tensorrt": "split", "tensorrt-rtx": "wide"}


@click.command("compile")
@click.argument("path", metavar="BUNDLE", type=click.Path(path_type=Path))
@click.option("--target", type=click.Choice(TARGETS), required=True, help="What to build for.")
@click.option(
    "--graph", "graphs", multiple=True, metavar="NAME", help="Build this graph only; repeatable."
)
@click.option(
    "--max-prompt",
    type=click.IntRange(min=2),
    help="Tokens of the longest prompt, visual ones included.  [default: the images and 448]",
)
@click.option(
    "--max-new-tokens",
    type=click.IntRange(min=1),
    help="Tokens of the longest answer.  [default: 256]",
)
@click.option("--max-batch", type=click.IntRange(min=1), default=1, show_default=True)
@click.option("--max-images", type=click.IntRange(min=1), default=1, show_default=True)
@click.option(
    "--max-image-pixels",
    type=click.IntRange(min=1),
    help="Pixels of the largest image after the model's own resizing, of models whose images keep "
    "their size.  [default: what makes 1280 tokens, 1.0 million for Qwen2-VL]",
)
@click.option(
    "--profiles",
    "profile_kind",
    type=click.Choice(PROFILE_KINDS),
    help="One profile for all lengths, or prefill and decode apart.  "
    "[default: wide for tensorrt-rtx, split for tensorrt]",
)
@click.option("--opt-level", type=click.IntRange(0, 5), help="The builder's optimization level.")
@click.option(
    "--workspace-mb", type=click.IntRange(min=1), help="Scratch memory that a layer may use."
)
@click.option(
    "--capability",
    metavar="N,...",
    help="Compute capabilities to build for, like 89,120 (tensorrt-rtx).  "
    "[default: all since Ampere]",
)
@click.option("--weight-streaming", is_flag=True, help="Let weights stay in host memory.")
@click.option("--version-compatible", is_flag=True, help="Let later versions load the engines.")
@click.option(
    "--cache",
    "cache_folder",
    type=click.Path(path_type=Path),
    help="Folder of engines shared by bundles.  [default: ~/.cache/sparsevlm/engines]",
)
@click.option("--no-cache", is_flag=True, help="Share no engines with other bundles.")
@click.option(
    "--cache-gb",
    type=click.FloatRange(min=0),
    default=DEFAULT_CACHE_BYTES / 1e9,
    show_default=True,
    help="Most that the shared folder may hold.",
)
@click.option("--dry-run", is_flag=True, help="Check and forecast; build nothing.")
@json_option
@debug_option
def compile_bundle(
    path: Path,
    *,
    target: str,
    graphs: tuple[str, ...],
    max_prompt: int | None,
    max_new_tokens: int | None,
    max_batch: int,
    max_images: int,
    max_image_pixels: int | None,
    profile_kind: str | None,
    opt_level: int | None,
    workspace_mb: int | None,
    capability: str | None,
    weight_streaming: bool,
    version_compatible: bool,
    cache_folder: Path | None,
    no_cache: bool,
    cache_gb: float,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Build the TensorRT engines of BUNDLE, a float16 bundle, into its engines/ folder.

    Every graph is checked before the first is built. A stopped compile goes on where it was; what
    is there already, or in the shared cache, is not built again. See docs/tensorrt.md.
    """
    bundle = Bundle.open(path)
    check_precision(bundle, target)
    library = load_library(target)
    capabilities = tuple(part.strip() for part in capability.split(",")) if capability else ()
    kind = profile_kind or DEFAULT_PROFILES[target]
    limits = Limits.of(
        bundle,
        max_prompt=max_prompt,
        max_new_tokens=max_new_tokens,
        max_batch=max_batch,
        max_images=max_images,
        max_image_pixels=max_image_pixels,
    )
    machine = library.machine(capabilities)
    folder = cache_folder or default_cache_folder()
    gpu = (machine.gpu or "any").replace(" ", "-")
    timings = folder / "timings" / f"{target}-{machine.version}-{gpu}.cache"
    flags = BuildFlags(
        opt_level=opt_level,
        workspace_bytes=None if workspace_mb is None else workspace_mb << 20,
        weight_streaming=weight_streaming,
        version_compatible=version_compatible,
        capabilities=machine.capabilities if target == "tensorrt-rtx" else (),
        timing_cache=str(timings) if target == "tensorrt" and not no_cache else None,
    )
    job = CompileJob(
        bundle,
        machine,
        limits,
        profile_kind=kind,
        flags=flags,
        graphs=graphs,
        cache=None if no_cache else EngineCache(folder, round(cache_gb * 1e9)),
        arguments=_arguments(limits, kind, flags),
    )
    outcomes: list[Outcome] = []
    pending = job.pending()
    total = len(job.tasks)
    with _Bar(as_json, len(pending) or 1) as bar:
        if pending:
            job.check_room(pending, read_memory(), shutil.disk_usage(path).free)
            job.check(bar.checking)
        if not dry_run:
            outcomes = list(job.run(bar))
    for outcome in outcomes:
        if outcome.record.attention == NOT_FUSED:
            click.echo(
                f"Warning: engine {outcome.record.graph} | attention is not fused: "
                f"{spell_bytes(outcome.record.scratch_bytes)} of scratch memory, and slow | see "
                "docs/tensorrt.md",
                err=True,
            )
    if as_json:
        print_json(_report(bundle, job, limits, outcomes))
    elif dry_run:
        click.echo(_forecast_table(job.tasks))
    else:
        click.echo(_table(job.tasks, outcomes))
        click.echo(f"\n{total} engines for {target} {machine.version} in {job.folder.path}")


class _Bar:
    """One bar over all engines: the graph, and how far its build is."""

    def __init__(self, quiet: bool, total: int) -> None:
        self._progress = Progress("compile", quiet=quiet)
        self._total, self._names = total, list[str]()
        self._told = ""

    def checking(self, graph: str, _: str, __: float) -> None:
        self._tell(0, f"check {graph}")

    def __call__(self, graph: str, phase: str, share: float) -> None:
        if graph not in self._names:
            self._names.append(graph)
        number = min(len(self._names), self._total) - 1
        done = f" {share:.0%}" if phase != "building" else ""
        self._tell(number, f"{graph}{done}")

    def _tell(self, number: int, text: str) -> None:
        # On a terminal the line is redrawn; elsewhere one line for each engine is enough.
        if text != self._told and (sys.stderr.isatty() or "%" not in text):
            self._progress(text, number, self._total)
        self._told = text

    def __enter__(self) -> _Bar:
        self._progress.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._progress.__exit__(*error)


def _arguments(limits: Limits, kind: str, flags: BuildFlags) -> tuple[str, ...]:
    """Spell the options that make the same engines again."""
    words = [
        "--max-prompt", str(limits.max_prompt),
        "--max-new-tokens", str(limits.max_new_tokens),
        "--max-batch", str(limits.max_batch),
        "--max-images", str(limits.max_images),
        "--profiles", kind,
    ]  # fmt: skip
    if limits.image is not None and limits.image.pixels is not None:
        words += ["--max-image-pixels", str(limits.image.pixels)]
    if flags.opt_level is not None:
        words += ["--opt-level", str(flags.opt_level)]
    if flags.workspace_bytes is not None:
        words += ["--workspace-mb", str(flags.workspace_bytes >> 20)]
    if flags.capabilities:
        words += ["--capability", ",".join(flags.capabilities)]
    words += ["--weight-streaming"] if flags.weight_streaming else []
    words += ["--version-compatible"] if flags.version_compatible else []
    return tuple(words)


def _forecast_table(tasks: tuple[Task, ...]) -> str:
    rows = [
        (
            task.graph,
            spell_bytes(task.forecast.weight_bytes),
            spell_bytes(task.forecast.plan_bytes),
            spell_bytes(task.forecast.peak_bytes),
        )
        for task in tasks
    ]
    return format_table(["graph", "weights", "plan, forecast", "peak memory, forecast"], rows)


def _table(tasks: tuple[Task, ...], outcomes: list[Outcome]) -> str:
    rows = [
        (
            task.graph,
            outcome.how,
            spell_bytes(outcome.record.plan_bytes),
            spell_bytes(task.forecast.plan_bytes),
            spell_bytes(outcome.record.peak_bytes),
            spell_bytes(task.forecast.peak_bytes),
            spell_bytes(outcome.record.activation_bytes),
            outcome.record.attention,
            spell_ms(outcome.record.build_ms),
        )
        for task, outcome in zip(tasks, outcomes, strict=True)
    ]
    header = ["graph", "", "plan", "forecast", "peak memory", "forecast", "activations"]
    header += ["attention", "time"]
    return format_table(header, rows)


def _report(
    bundle: Bundle, job: CompileJob, limits: Limits, outcomes: list[Outcome]
) -> dict[str, Any]:
    machine = job.tasks[0].spec.machine
    return {
        "bundle": bundle.path,
        "machine": machine,
        "limits": limits,
        "forecasts": {task.graph: task.forecast for task in job.tasks},
        "engines": {
            outcome.record.graph: {
                "how": outcome.how,
                "attention": outcome.record.attention,
                "record": outcome.record,
            }
            for outcome in outcomes
        },
    }
