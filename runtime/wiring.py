"""How the graphs of a manifest hang together: stages without gaps, links that meet."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from sparsevlm_trt.runtime.graph_spec import GraphSpec, Link, TensorSpec
from sparsevlm_trt.runtime.manifest import Manifest

__all__ = ["WEIGHTS_PREFIX", "wiring_problems"]

WEIGHTS_PREFIX = "graphs/weights/"  # below it a file is named by its hash, and stored once


def wiring_problems(manifest: Manifest) -> list[str]:
    """Say all that keeps the graphs of a manifest from forming one chain.

    Returns:
        One sentence per problem, `place | got | expected`; empty for a sound manifest.
    """
    return [
        *_stage_problems(manifest),
        *_graph_problems(manifest),
        *_file_problems(manifest),
        *_link_problems(manifest),
    ]


def _stage_problems(manifest: Manifest) -> Iterator[str]:
    """The stages cover the layers once, in order, and are cut at the plan's boundaries."""
    num_layers = manifest.model.num_layers
    if not manifest.stages:
        yield f"stages | got none | expected stages that cover {num_layers} layers"
        return
    next_layer = 0
    for index, stage in enumerate(manifest.stages):
        if stage.first != next_layer or stage.stop <= stage.first:
            yield (
                f"stages[{index}] | got layers {stage.first} to {stage.stop} (exclusive) | "
                f"expected to start at {next_layer} and hold at least one layer"
            )
        next_layer = stage.stop
    if next_layer != num_layers:
        yield f"stages | end before layer {next_layer} | expected to cover {num_layers} layers"
    fed = manifest.model.num_deepstack or 0
    if manifest.stages[0].stop < fed:
        yield (
            f"stages[0] | ends before layer {manifest.stages[0].stop} | expected to hold the "
            f"{fed} layers that the vision tower feeds"
        )
    cuts = tuple(stage.stop - 1 for stage in manifest.stages[:-1])
    if cuts != manifest.plan.boundaries:
        yield (
            f"plan.boundaries | got {list(manifest.plan.boundaries)} | "
            f"expected the last layers of all stages but the last: {list(cuts)}"
        )


def _graph_problems(manifest: Manifest) -> Iterator[str]:
    """Every graph that a stage, a method or the vision tower needs is there."""
    needed = [(f"stages[{n}].graph", stage.graph) for n, stage in enumerate(manifest.stages)]
    if manifest.plan.boundaries:
        methods = [method for method in manifest.plan.methods if method != "none"]
        needed += [(f"plan.methods {method}", f"prune_{method}") for method in methods]
        if methods:
            needed.append(("plan.methods", "rater_rows"))
    if manifest.vision is not None:
        needed.append(("vision", "vision"))
        if manifest.vision.setting("frame_tokens"):
            needed.append(("vision.settings[frame_tokens]", "video"))
    for where, name in needed:
        if name not in manifest.graphs:
            yield f"{where} | no graph {name} | the graphs are {_listed(manifest.graphs)}"
    used = [stage.graph for stage in manifest.stages]
    for name in sorted({name for name in used if used.count(name) > 1}):
        yield f"stages | graph {name} stands for several stages | expected one graph for each"


def _file_problems(manifest: Manifest) -> Iterator[str]:
    """Every file has one hash; weights are listed, and named by theirs."""
    hashes = {relpath: spec.sha256 for relpath, spec in manifest.files.items()}
    for relpath, sha256 in sorted(hashes.items()):
        name = relpath.removeprefix(WEIGHTS_PREFIX)
        if name != relpath and name != f"{sha256}.bin":
            yield f"files[{relpath}] | sha256 {sha256[:12]}... | expected the one it is named by"
    for name, graph in sorted(manifest.graphs.items()):
        if hashes.setdefault(graph.file, graph.sha256) != graph.sha256:
            yield f"graphs[{name}].file | {graph.file} has two hashes | expected one"
        for weight in graph.weights:
            if weight not in manifest.files:
                yield f"graphs[{name}].weights | {weight} | expected a file listed in files"


def _link_problems(manifest: Manifest) -> Iterator[str]:
    """Both ends of every link are there and meet in dtype, rank and static dims."""
    seen: set[Link] = set()
    for index, link in enumerate(manifest.links):
        where = f"links[{index}] {link.source} -> {link.target}"
        if link in seen:
            yield f"{where} | the same link twice | expected each link once"
        seen.add(link)
        source = _end(manifest, link.source, is_output=True)
        target = _end(manifest, link.target, is_output=False)
        missing = [end for end in (source, target) if isinstance(end, str)]
        for sentence in missing:
            yield f"{where} | {sentence}"
        if isinstance(source, TensorSpec) and isinstance(target, TensorSpec):
            yield from _meeting_problems(where, source, target)


def _end(manifest: Manifest, end: str, is_output: bool) -> TensorSpec | str:
    """Find `graph.tensor`, or say why it is not there."""
    name, dot, tensor = end.partition(".")  # tensor names hold dots, graph names do not
    graph = manifest.graphs.get(name)
    if not dot:
        return f"got {end!r} | expected GRAPH.TENSOR"
    if graph is None:
        return f"no graph {name} | the graphs are {_listed(manifest.graphs)}"
    side = _side(graph, is_output)
    if tensor not in side:
        kind = "output" if is_output else "input"
        return f"graph {name} has no {kind} {tensor} | its {kind}s are {_listed(side)}"
    return side[tensor]


def _meeting_problems(where: str, source: TensorSpec, target: TensorSpec) -> Iterator[str]:
    """A named dim takes any size; two sizes must be equal."""
    if source.dtype != target.dtype:
        yield f"{where} | gives {source.dtype} | expected {target.dtype}"
    if len(source.shape) != len(target.shape):
        yield f"{where} | gives {_spelled(source)} | expected rank {len(target.shape)}"
    elif any(
        isinstance(given, int) and isinstance(taken, int) and given != taken
        for given, taken in zip(source.shape, target.shape, strict=True)
    ):
        yield f"{where} | gives {_spelled(source)} | expected {_spelled(target)}"


def _side(graph: GraphSpec, is_output: bool) -> dict[str, TensorSpec]:
    return {tensor.name: tensor for tensor in (graph.outputs if is_output else graph.inputs)}


def _spelled(tensor: TensorSpec) -> str:
    return f"[{', '.join(str(dim) for dim in tensor.shape)}]"


def _listed(names: Iterable[str]) -> str:
    listed = sorted(names)
    more = f", and {len(listed) - 12} more" if len(listed) > 12 else ""
    return (", ".join(listed[:12]) + more) or "none"
