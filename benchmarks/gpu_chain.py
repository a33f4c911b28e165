"""Our side of the GPU benchmark: the chain's times, its answers, and where each node runs."""

from __future__ import annotations

import os
import re
import statistics
import tempfile
import time
from collections import Counter, defaultdict
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch

from sparsevlm_trt.runtime import Session
from sparsevlm_trt.runtime.boundary import Layout
from sparsevlm_trt.runtime.device_array import joined
from sparsevlm_trt.runtime.prompt import read_prompt
from sparsevlm_trt.runtime.pruning_plan import plan_pruning
from sparsevlm_trt.runtime.trace import Clock

PROVIDERS = {"cuda": ["CUDAExecutionProvider"], "cpu": ["CPUExecutionProvider"]}
_PREFIX = 5  # tokens before the image in LLaVA's template
_NODE = re.compile(r"VerifyEachNodeIsAssignedToAnEp\]\s+(\w+) \(")
_PLACE = re.compile(r"placed on \[(\w+)\]")


@dataclass(frozen=True, slots=True)
class Timed:
    """One prompt and the tokens after it; milliseconds.

    Attributes:
        vision_ms: Tower and projector, for each image of the batch together.
        prefill_ms: From the embeddings to the first logits, on the host.
        host_prefill_ms: What of that was outside the graphs.
        decode_ms: Median decode step.
        host_decode_ms: What of that was outside the graphs.
        kv_bytes: Used entries of all caches.
        graphs_ms: Prefill by graph; decode by graph, a step's median, under `decode:`.
        is_finite: Whether all logits are numbers: others would take their own time.
    """

    vision_ms: float
    prefill_ms: float
    host_prefill_ms: float
    decode_ms: float
    host_decode_ms: float
    kv_bytes: int
    graphs_ms: dict[str, float]
    is_finite: bool


def open_session(bundle: Path, device: str) -> Session:
    """Open a bundle on a device; noise has no hash to verify."""
    return Session.load(bundle, verify=False, image_cache_bytes=0, providers=PROVIDERS[device])


def timed(session: Session, budget: int | None, num_text: int, steps: int, batch: int) -> Timed:
    """Read one prompt of noise with an image, and decode.

    Args:
        session: On any device.
        budget: Nominal visual tokens; None for unpruned.
        num_text: Tokens beside the visual ones.
        steps: Decode steps.
        batch: Rows.
    """
    chain, manifest = session.chain, session.bundle.manifest
    assert manifest.vision is not None
    rng = np.random.default_rng(0)
    ids = rng.integers(1, min(32000, manifest.model.vocab_size), (batch, num_text))
    pixels = rng.standard_normal((batch, 3, *manifest.vision.image_size), np.float32)
    clock = Clock()
    started = time.perf_counter()
    features = session.runner.run("vision", {"pixel_values": pixels})["image_features"]
    vision_ms = (time.perf_counter() - started) * 1e3
    words = chain.embed(ids, clock)
    embeds = joined([words[:, :_PREFIX], features, words[:, _PREFIX:]], 1, chain.empty)
    layout = Layout(_PREFIX, manifest.vision.num_visual, num_text - _PREFIX)
    method = "none" if budget is None else "sparsevlm"
    pruning = plan_pruning(manifest, method=method, budget=budget)
    clock.restart()
    logits, state = chain.prefill(embeds, layout, pruning, steps, clock)
    graphs = dict(clock.steps)
    prefill_ms, host_prefill_ms = clock.lap()
    walls, hosts, by_graph = [], [], defaultdict(list)
    for _ in range(steps):
        clock.restart()
        logits = chain.decode(logits.argmax(axis=1), state, clock)
        for name, elapsed in clock.steps:
            by_graph[name].append(elapsed)
        wall, host = clock.lap()
        walls.append(wall)
        hosts.append(host)
    graphs |= {f"decode:{name}": statistics.median(each) for name, each in by_graph.items()}
    return Timed(
        vision_ms,
        prefill_ms,
        host_prefill_ms,
        statistics.median(walls),
        statistics.median(hosts),
        sum(cache.nbytes for cache in state.caches),
        graphs,
        bool(np.isfinite(logits).all()),
    )


def median_of(samples: list[Timed]) -> dict[str, Any]:
    """The median of each figure."""
    rows = [asdict(sample) for sample in samples]
    names = [name for name in rows[0] if name != "graphs_ms"]
    result: dict[str, Any] = {name: statistics.median(row[name] for row in rows) for name in names}
    result["graphs_ms"] = {
        graph: statistics.median(row["graphs_ms"][graph] for row in rows)
        for graph in rows[0]["graphs_ms"]
    }
    result["least_prefill_ms"] = min(row["prefill_ms"] for row in rows)
    result["least_decode_ms"] = min(row["decode_ms"] for row in rows)
    return result


def used_gpu_bytes() -> int:
    """Bytes of the GPU's memory that are taken, but for PyTorch's; 0 without a GPU.

    ONNX Runtime's arenas keep what they took, so what is used after a run is its peak.
    """
    if not torch.cuda.is_available():
        return 0
    free, total = torch.cuda.mem_get_info()
    return total - free - torch.cuda.memory_reserved()


def hf_inputs(session: Session, image: Path, question: str) -> tuple[np.ndarray, np.ndarray]:
    """Token ids and pixels of a prompt as transformers takes them."""
    content = [{"type": "image"}, {"type": "text", "text": question}]
    read = read_prompt(
        session.bundle.manifest,
        session.processor,
        Clock(),
        images=[str(image)],
        messages=[{"role": "user", "content": content}],
    )
    return read.ids[None], read.visuals[0].inputs["pixel_values"]


def placement(graph: Path, device: str) -> dict[str, dict[str, int]]:
    """Count the nodes of a graph by execution provider and operator, as the session places them.

    It is told in ONNX Runtime's log alone, which goes to the process's error stream.
    """
    options = onnxruntime.SessionOptions()
    options.log_severity_level = options.log_verbosity_level = 0
    options.use_per_session_threads = False
    with tempfile.TemporaryFile() as log:
        kept = os.dup(2)
        os.dup2(log.fileno(), 2)
        try:
            onnxruntime.InferenceSession(str(graph), options, providers=PROVIDERS[device])
        finally:
            os.dup2(kept, 2)
            os.close(kept)
        log.seek(0)
        lines = log.read().decode(errors="replace").splitlines()
    counts: dict[str, Counter[str]] = {}
    provider = ""
    for line in lines:
        place, node = _PLACE.search(line), _NODE.search(line)
        if place is not None:
            provider = place[1]
            counts.setdefault(provider, Counter())
            if "All nodes" in line:
                counts[provider]["all"] += int(line.rsplit(":", 1)[1])
        elif node is not None and provider:
            counts[provider][node[1]] += 1
    return {name: dict(count.most_common()) for name, count in counts.items()}
