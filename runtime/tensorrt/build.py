"""Build one engine: network, configuration, plan."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from sparsevlm_trt.runtime.engines.profiles import Profile
from sparsevlm_trt.runtime.errors import EngineError
from sparsevlm_trt.runtime.extras import MissingPackageError, pip_command
from sparsevlm_trt.runtime.memory import read_peak_bytes
from sparsevlm_trt.runtime.tensorrt.network import ParsedNetwork

__all__ = ["BuildFlags", "Built", "build_engine", "flags_from"]

_CHUNK_BYTES = 1 << 24  # hashed and written at once


@dataclass(frozen=True, slots=True)
class BuildFlags:
    """Builder settings.

    Attributes:
        opt_level: 0 to 5; None for the library's own default.
        workspace_bytes: Scratch memory that one layer may use; None for all there is.
        weight_streaming: Whether weights may stay in host memory at run time.
        version_compatible: Whether later versions of TensorRT can load the plan.
        capabilities: Compute capabilities to build for, TensorRT-RTX only; none: its default.
        timing_cache: File of measured kernel times to read and extend; None for none.
    """

    opt_level: int | None = None
    workspace_bytes: int | None = None
    weight_streaming: bool = False
    version_compatible: bool = False
    capabilities: tuple[str, ...] = ()
    timing_cache: str | None = None

    def spelled(self) -> dict[str, str]:
        """What changes the plan, for the record."""
        told: dict[str, str] = {}
        if self.opt_level is not None:
            told["opt_level"] = str(self.opt_level)
        if self.workspace_bytes is not None:
            told["workspace_bytes"] = str(self.workspace_bytes)
        for name in ("weight_streaming", "version_compatible"):
            if getattr(self, name):
                told[name] = "on"
        return told


@dataclass(frozen=True, slots=True)
class Built:
    """A plan on disk and what it took; see `EngineRecord` for the fields."""

    plan_sha256: str
    plan_bytes: int
    weight_bytes: int
    activation_bytes: int
    scratch_bytes: int
    peak_bytes: int
    build_ms: int
    num_layers: int


def build_engine(
    trt: Any,
    graph: Path,
    profiles: tuple[Profile, ...],
    flags: BuildFlags,
    place: Path,
    progress: Callable[[str, float], None],
) -> Built:
    """Build a graph's engine.

    Args:
        trt: The library's module.
        graph: The ONNX file.
        profiles: Shape ranges.
        flags: Builder settings.
        place: Where to write the plan.
        progress: Called with the phase's name and the share done, 0 to 1.

    Raises:
        EngineError: The parser or the builder refuses.
    """
    started = time.perf_counter()
    parsed = ParsedNetwork(trt, graph)
    if parsed.problems:
        raise EngineError("; ".join(parsed.problems))
    monitor = _monitor(trt, progress)  # the configuration does not keep it alive
    config = _config(parsed, profiles, flags, monitor)
    plan = parsed.builder.build_serialized_network(parsed.network, config)
    if plan is None:
        reasons = parsed.figures.errors[-3:] or ["the builder gave no reason"]
        raise EngineError("; ".join(reasons))
    size, digest = _write(plan, place)
    if flags.timing_cache is not None:
        _save_timings(config, Path(flags.timing_cache))
    figure = parsed.figures.figure
    return Built(
        plan_sha256=digest,
        plan_bytes=size,
        weight_bytes=figure("weight_bytes"),
        activation_bytes=figure("activation_bytes"),
        scratch_bytes=figure("scratch_bytes"),
        peak_bytes=read_peak_bytes(),
        build_ms=round((time.perf_counter() - started) * 1e3),
        num_layers=parsed.network.num_layers,
    )


def _config(
    parsed: ParsedNetwork, profiles: tuple[Profile, ...], flags: BuildFlags, monitor: Any
) -> Any:
    """Make the builder's configuration by Polygraphy, which knows what each version has."""
    try:
        from polygraphy import exception
        from polygraphy.backend.trt import CreateConfig
        from polygraphy.backend.trt import Profile as TrtProfile
    except ImportError as error:
        raise MissingPackageError(
            f"sparsevlm compile | {error} | expected the packages of the tensorrt extra | "
            f"{pip_command('tensorrt')}"
        ) from error
    trt, options = parsed.trt, dict[str, Any]()
    if flags.opt_level is not None:
        options["builder_optimization_level"] = flags.opt_level
    if flags.workspace_bytes is not None:
        pool = trt.MemoryPoolType.WORKSPACE
        options["memory_pool_limits"] = {pool: flags.workspace_bytes}
    if flags.timing_cache is not None and Path(flags.timing_cache).is_file():
        options["load_timing_cache"] = flags.timing_cache
    try:
        config = CreateConfig(
            profiles=[_trt_profile(TrtProfile(), profile) for profile in profiles],
            weight_streaming=flags.weight_streaming,
            version_compatible=flags.version_compatible,
            progress_monitor=monitor,
            **options,
        )(parsed.builder, parsed.network)
    except exception.PolygraphyException as error:
        raise EngineError(" ".join(str(error).split())) from error
    if flags.capabilities:
        config.num_compute_capabilities = len(flags.capabilities)
        for index, one in enumerate(flags.capabilities):
            capability = getattr(trt.ComputeCapability, f"SM{one}")
            config.set_compute_capability(capability, index)
    return config


def _trt_profile(made: Any, profile: Profile) -> Any:
    for name, one in profile.items():
        made.add(name, one.min, one.opt, one.max)
    return made


def _monitor(trt: Any, progress: Callable[[str, float], None]) -> Any:
    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        """Follows the outermost phase; the inner ones come by the hundred."""

        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self.steps: dict[str, int] = {}

        def phase_start(self, phase: str, parent: str | None, num_steps: int) -> None:
            if parent is None:
                self.steps[phase] = max(1, num_steps)
                progress(phase, 0.0)

        def step_complete(self, phase: str, step: int) -> bool:
            if phase in self.steps:
                progress(phase, min(1.0, (step + 1) / self.steps[phase]))
            return True

        def phase_finish(self, phase: str) -> None:
            self.steps.pop(phase, None)

    return Monitor()


def _write(plan: Any, place: Path) -> tuple[int, str]:
    """Write a plan and hash it on the way."""
    view = memoryview(plan).cast("B")
    digest = sha256()
    with place.open("wb", buffering=0) as file:
        for start in range(0, len(view), _CHUNK_BYTES):
            piece = view[start : start + _CHUNK_BYTES]
            digest.update(piece)
            while piece:
                piece = piece[file.write(piece) :]
    return len(view), digest.hexdigest()


def _save_timings(config: Any, path: Path) -> None:
    """Keep measured kernel times; without them the next build is slower, and nothing else."""
    cache: Any = config.get_timing_cache()
    if cache is None:
        return
    partial = path.with_name(f"{path.name}.partial")
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_bytes(bytes(cache.serialize()))
        partial.replace(path)


def flags_from(values: Mapping[str, Any]) -> BuildFlags:
    """Read flags that crossed a process boundary as JSON."""
    return BuildFlags(**{**values, "capabilities": tuple(values["capabilities"])})
