"""The compile job: which engines a bundle wants, which it has, and building the rest."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from sparsevlm_trt.runtime.bundle import Bundle
from sparsevlm_trt.runtime.engines.build_client import ask
from sparsevlm_trt.runtime.engines.cache import EngineCache, link_file
from sparsevlm_trt.runtime.engines.folder import EngineFolder, plan_name
from sparsevlm_trt.runtime.engines.fusion import attention_verdict
from sparsevlm_trt.runtime.engines.limits import Limits
from sparsevlm_trt.runtime.engines.record import EngineRecord, Machine
from sparsevlm_trt.runtime.engines.task import Task, make_task
from sparsevlm_trt.runtime.errors import EngineError
from sparsevlm_trt.runtime.memory import Memory
from sparsevlm_trt.runtime.problems import told_at_once
from sparsevlm_trt.runtime.strict_json import encode
from sparsevlm_trt.runtime.tensorrt.build import BuildFlags
from sparsevlm_trt.runtime.units import spell_bytes

__all__ = ["CompileJob", "Outcome", "check_precision"]

# Called with a graph, what happens to it, and the share done, 0 to 1.
Progress = Callable[[str, str, float], None]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a task: "ready" (it was there), "shared", "cached" or "built"."""

    how: str
    record: EngineRecord


def check_precision(bundle: Bundle, target: str) -> None:
    """Refuse a float32 bundle.

    Raises:
        EngineError: With the export that makes one that can be built.
    """
    model, told = bundle.manifest.model, bundle.manifest.quantization
    if model.dtype != "float32":
        return
    made = f"{bundle.path}-float16"
    remedy = f"sparsevlm export {model.source} {made} --dtype float16"
    if told is not None:  # what is not quantised in it is float32: attention
        remedy += (
            f", then sparsevlm calibrate quantize {made} {made}-{told.scheme} --scheme "
            f"{told.scheme} --data FILE, with the same questions"
        )
    raise EngineError(
        f"bundle {bundle.path} | float32 | expected float16: {target} has no fused attention "
        f"for float32 | {remedy}"
    )


class CompileJob:
    """Builds the engines of one bundle for one machine; what is there already is left alone."""

    def __init__(
        self,
        bundle: Bundle,
        machine: Machine,
        limits: Limits,
        *,
        profile_kind: str = "wide",
        flags: BuildFlags | None = None,
        graphs: Sequence[str] = (),
        cache: EngineCache | None = None,
        arguments: tuple[str, ...] = (),
    ) -> None:
        """Work out what is wanted.

        Args:
            bundle: The bundle.
            machine: What to build for.
            limits: The largest request.
            profile_kind: One of `PROFILE_KINDS`.
            flags: Builder settings.
            graphs: The graphs to build; none: all.
            cache: Engines shared with other bundles; None for no cache.
            arguments: The command's, for the records.

        Raises:
            EngineError: The bundle is float32, a graph is unknown, or one has a dim that no limit
                bounds.
        """
        check_precision(bundle, machine.target)
        manifest = bundle.manifest
        unknown = [name for name in graphs if name not in manifest.graphs]
        if unknown:
            raise EngineError(
                f"graph | got {', '.join(unknown)} | expected of: "
                f"{', '.join(sorted(manifest.graphs))} | name one of them"
            )
        self.bundle = bundle
        self.folder = EngineFolder(bundle, machine.target)
        self._flags = flags or BuildFlags()
        self._cache, self._arguments = cache, arguments
        self.tasks = tuple(
            make_task(manifest, machine, limits, name, profile_kind, self._flags)
            for name in (graphs or manifest.graphs)
        )

    def check(self, progress: Progress) -> None:
        """Parse every graph that is to be built, and refuse what the target would.

        Raises:
            EngineError: All problems at once, each naming graph, node and operator.
        """
        wanted = {
            task.graph: {
                "graph": str(self.bundle.graph_path(task.graph)),
                "profiles": encode(task.spec.profiles),
            }
            for task in self.tasks
        }
        target, graph = self.folder.target, "?"
        problems: list[str] = []
        try:
            for event in ask({"target": target, "graphs": wanted}):
                graph = event.get("graph", graph)
                if event["event"] == "checking":
                    progress(graph, "checking", 0.0)
                elif event["event"] == "checked":
                    problems += [f"graph {graph}, {told}" for told in event["problems"]]
                else:
                    problems.append(event["reason"])
        except EngineError as error:
            problems.append(f"graph {graph} | {error} | expected a graph that can be parsed")
        if problems:
            remedy = "export again with this version; see docs/tensorrt.md, 'Troubleshooting'"
            raise EngineError(told_at_once(f"target {target}", problems, remedy))

    def check_room(self, tasks: Sequence[Task], memory: Memory, disk_bytes: int) -> None:
        """Refuse what cannot fit, before minutes are spent.

        Engines are built one after another, so that the largest bounds the memory.

        Args:
            tasks: What is to be built.
            memory: This machine's.
            disk_bytes: Free where the bundle lies.

        Raises:
            EngineError: A build needs more memory than there is, or the plans more disk.
        """
        largest = max(tasks, key=lambda task: task.forecast.peak_bytes)
        room = memory.room_bytes
        problems = []
        if room is not None and largest.forecast.peak_bytes > room:
            problems.append(
                f"memory | building {largest.graph} takes about "
                f"{spell_bytes(largest.forecast.peak_bytes)} | expected "
                f"{spell_bytes(room)} at most, what is available | compile where there is more, "
                "or export with more pruning layers: shorter stages build in less"
            )
        plans = sum(task.forecast.plan_bytes for task in tasks)
        if plans > disk_bytes:
            problems.append(
                f"disk | the engines take about {spell_bytes(plans)} | expected "
                f"{spell_bytes(disk_bytes)} at most, what is free | make room, or build some "
                "with --graph"
            )
        if len(problems) == 1:
            raise EngineError(problems[0])
        if problems:
            raise EngineError(told_at_once("compile", problems, "nothing was built"))

    def pending(self) -> list[Task]:
        """Tasks whose engine is not in the bundle, whole and as wanted."""
        return [task for task in self.tasks if self._ready(task) is None]

    def run(self, progress: Progress) -> Iterator[Outcome]:
        """Build what is missing, one engine after another.

        Each is published before the next begins, so that a stopped job loses one engine at most.

        Yields:
            The outcome of each task, in order.

        Raises:
            EngineError: A graph cannot be built, or the folder cannot be written.
        """
        made: dict[str, EngineRecord] = {}
        with self.folder.writing():
            for task in self.tasks:
                twin = made.get(task.spec.key)
                if twin is not None and self._ready(task) is None:
                    yield Outcome("shared", self._share(task, twin))
                    continue
                record = self._ready(task)
                how = "ready"
                if record is None:
                    how, record = "cached", self._cached(task)
                if record is None:
                    how, record = "built", self._build(task, progress)
                made[task.spec.key] = record
                yield Outcome(how, record)

    def _ready(self, task: Task) -> EngineRecord | None:
        try:
            record = self.folder.record(task.graph)
        except EngineError:
            return None
        if record is None or record.spec != task.spec:
            return None
        problem = self.folder.problem(task.graph, record, task.spec.machine)
        return record if problem is None else None

    def _cached(self, task: Task) -> EngineRecord | None:
        if self._cache is None:
            return None
        partial = self.folder.partial(task.graph)
        record = self._cache.take(task.spec, task.graph, partial)
        if record is not None:
            self.folder.publish(record, partial)
        return record

    def _share(self, task: Task, twin: EngineRecord) -> EngineRecord:
        """Publish the engine of another graph that is the same: methods share prune steps."""
        partial = self.folder.partial(task.graph)
        link_file(self.folder.plan_path(twin), partial)
        name = plan_name(task.graph, twin.plan_sha256)
        record = replace(twin, graph=task.graph, plan_file=name)
        self.folder.publish(record, partial)
        return record

    def _build(self, task: Task, progress: Progress) -> EngineRecord:
        partial = self.folder.partial(task.graph)
        try:
            built = self._ask_for(task, progress)
            record = EngineRecord(
                graph=task.graph,
                spec=task.spec,
                plan_file=plan_name(task.graph, built["plan_sha256"]),
                attention=attention_verdict(
                    self.bundle.manifest, task.graph, task.spec.profiles, built["scratch_bytes"]
                ),
                arguments=self._arguments,
                **built,
            )
            if self._cache is not None:
                self._cache.put(record, partial)
            self.folder.publish(record, partial)
        finally:
            partial.unlink(missing_ok=True)
        return record

    def _ask_for(self, task: Task, progress: Progress) -> dict[str, Any]:
        """Build in another process; returns the fields of the record that it knows."""
        request = {
            "target": self.folder.target,
            "graph": str(self.bundle.graph_path(task.graph)),
            "profiles": encode(task.spec.profiles),
            "flags": asdict(self._flags),
            "place": str(self.folder.partial(task.graph)),
        }
        progress(task.graph, "building", 0.0)
        reason = "it ended without an engine"
        try:
            for event in ask(request):
                kind = event.pop("event")
                if kind == "progress":
                    progress(task.graph, event["phase"], event["share"])
                elif kind == "built":
                    return event
                else:
                    reason = event["reason"]
        except EngineError as error:
            reason = str(error)
        if reason.startswith(("sparsevlm compile |", "target ")):
            raise EngineError(reason)
        raise EngineError(
            f"engine {task.graph} | {reason} | expected a plan | see docs/tensorrt.md, "
            "'Troubleshooting'"
        )
