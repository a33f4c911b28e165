"""From a bundle and data to a quantised bundle."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from sparsevlm_trt.calibration.balance import Fit, fit_site
from sparsevlm_trt.calibration.bundle_copy import BundleCopy
from sparsevlm_trt.calibration.cache_codes import quantize_cache
from sparsevlm_trt.calibration.collect import Collected, collect
from sparsevlm_trt.calibration.folding import find_fold
from sparsevlm_trt.calibration.models import load_model
from sparsevlm_trt.calibration.ranges import RANGES_FILE, ranges_json
from sparsevlm_trt.calibration.rewrite import quantize_graph
from sparsevlm_trt.calibration.samples import Samples
from sparsevlm_trt.calibration.schemes import Scheme
from sparsevlm_trt.calibration.sensitivity import measure_sensitivity, most_sensitive
from sparsevlm_trt.calibration.sites import find_sites
from sparsevlm_trt.calibration.table import quantize_table
from sparsevlm_trt.export.bundle_writer import BundleWriter
from sparsevlm_trt.runtime.bundle import Bundle
from sparsevlm_trt.runtime.errors import InputError
from sparsevlm_trt.runtime.graph_spec import GraphSpec
from sparsevlm_trt.runtime.manifest import QuantizationSpec
from sparsevlm_trt.runtime.memory import Memory, read_memory
from sparsevlm_trt.runtime.units import spell_bytes

__all__ = ["Fitted", "fit_bundle", "quantize_bundle", "write_quantized"]

Progress = Callable[[str, int, int], None]
MOMENT_BYTES = 4  # float32, one for every pair of an activation's channels


@dataclass(frozen=True, slots=True, eq=False)
class Fitted:
    """What was found on the data.

    Attributes:
        fits: For each site of the bundle, by name.
        seen: What was seen there, and of the caches.
    """

    fits: Mapping[str, Fit]
    seen: Collected


def quantize_bundle(
    bundle: Bundle,
    out: Path,
    scheme: Scheme,
    samples: Samples,
    *,
    budgets: Sequence[int | None] = (),
    num_kept: int = 0,
    kept_graphs: Sequence[str] = (),
    int8_cache: bool = False,
    threads: int | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Path:
    """Quantise a bundle on data.

    Args:
        bundle: A bundle that is not quantised.
        out: The new bundle's folder.
        scheme: How to quantise.
        samples: What to ask it meanwhile.
        budgets: Nominal budgets that take turns, None for no pruning; empty for the bundle's own
            plan.
        num_kept: Sites to leave as they are, the most sensitive ones by their size.
        kept_graphs: Graphs to leave as they are, beside those sites.
        int8_cache: Whether keys and values are remembered as int8, with a scale a channel.
        threads: Processor threads.
        overwrite: Replace a bundle that is there.
        progress: Called before each step.

    Returns:
        The new bundle's folder.

    Raises:
        InputError: The data cannot be used, the bundle is quantised already, or has no such graph.
        ExportError: The new bundle cannot be written; nothing stays behind.
    """
    if bundle.manifest.quantization is not None:
        raise InputError(
            f"bundle {bundle.path} | is {bundle.manifest.quantization.scheme} already | expected "
            "an unquantised bundle | quantise the one it was made from"
        )
    unknown = sorted(set(kept_graphs) - set(bundle.manifest.graphs))
    if unknown:
        raise InputError(
            f"bundle {bundle.path} | has no graph {', '.join(unknown)} to keep | expected "
            f"some of: {', '.join(bundle.manifest.graphs)} | name those"
        )
    fitted = fit_bundle(
        bundle, scheme, samples, budgets=budgets, threads=threads, progress=progress
    )
    kept = tuple(name for name in fitted.fits if name.partition("/")[0] in kept_graphs)
    if num_kept:
        others = {name: fit for name, fit in fitted.fits.items() if name not in kept}
        found = measure_sensitivity(bundle, others, scheme, samples, progress=progress)
        kept += most_sensitive(found, num_kept)
    return write_quantized(
        bundle,
        out,
        scheme,
        samples,
        fitted,
        kept=kept,
        keeps_table="embed" in kept_graphs,
        int8_cache=int8_cache,
        overwrite=overwrite,
        progress=progress,
    )


def fit_bundle(
    bundle: Bundle,
    scheme: Scheme,
    samples: Samples,
    *,
    budgets: Sequence[int | None],
    threads: int | None = None,
    progress: Progress | None = None,
) -> Fitted:
    """Watch a bundle on the data and find each site's scales.

    Raises:
        InputError: The second moments that the scheme needs do not fit in memory.
    """
    if scheme.compensates:
        _check_memory(bundle, read_memory())
    collected = collect(
        bundle, samples, budgets, moments=scheme.compensates, threads=threads, progress=progress
    )
    fits: dict[str, Fit] = {}
    graphs = list(bundle.manifest.graphs)
    for number, graph in enumerate(graphs):
        if progress is not None:
            progress(f"fit {graph}", number, len(graphs))
        for site in find_sites(graph, load_model(bundle, graph)):
            seen = collected.statistics.get(site.name)
            if seen is None:
                continue  # a graph that this data does not reach, say of another method
            weights = []
            for linear in site.linears:
                assert linear.weight.const_value is not None
                array = np.asarray(linear.weight.const_value.numpy(), np.float32)
                weights.append(np.ascontiguousarray(array.T) if linear.transposed else array)
            # A head that lies [M, K] may share its bytes with the embedding: leave its inputs.
            is_head = any(linear.transposed for linear in site.linears)
            # Where activations are rounded, a division of its own is worth its operator.
            divides = scheme.activations is not None or find_fold(site) is not None
            can_balance = not is_head and divides
            fits[site.name] = fit_site(seen, weights, scheme, can_balance=can_balance)
    return Fitted(fits, collected)


def write_quantized(
    bundle: Bundle,
    out: Path,
    scheme: Scheme,
    samples: Samples,
    fitted: Fitted,
    *,
    kept: Sequence[str] = (),
    keeps_table: bool = False,
    int8_cache: bool = False,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Path:
    """Write the quantised bundle.

    Args:
        bundle: The bundle to quantise.
        out: The new one's folder.
        scheme: How.
        samples: The data, to be named in the manifest.
        fitted: What was found on it.
        kept: Sites to leave as they are.
        keeps_table: Whether the embedding table stays, too.
        int8_cache: Whether keys and values are remembered as int8.
        overwrite: Replace a bundle that is there.
        progress: Called before each graph.
    """
    fits = {name: fit for name, fit in fitted.fits.items() if name not in kept}
    statistics = fitted.seen.statistics
    ranges = ranges_json(fits, statistics, kept)
    with BundleWriter(out, overwrite=overwrite) as writer:
        copy = BundleCopy(bundle, writer)
        specs: dict[str, GraphSpec] = {}
        done: list[str] = []
        names = list(bundle.manifest.graphs)
        for number, name in enumerate(names):
            if progress is not None:
                progress(f"write {name}", number, len(names))
            model = load_model(bundle, name)
            sites = quantize_graph(name, model, fits, scheme, copy.store, statistics)
            done += sites
            has_codes = int8_cache and quantize_cache(model, fitted.seen.caches)
            has_table = name == "embed" and not keeps_table and quantize_table(model, copy.store)
            if sites or has_codes or has_table:
                specs[name] = copy.add_model(name, model)
            else:
                specs[name] = copy.add_graph(name)
        copy.add_files()
        writer.add_file(RANGES_FILE, ranges)
        manifest = replace(
            bundle.manifest,
            model=replace(bundle.manifest.model, cache_dtype="int8" if int8_cache else None),
            graphs=specs,
            files=writer.files,
            quantization=QuantizationSpec(
                scheme=scheme.name,
                source_sha256=bundle.sha256,
                data_sha256=samples.data.sha256,
                num_samples=len(samples.questions),
                ranges_sha256=hashlib.sha256(ranges).hexdigest(),
                num_sites=len(done),
                kept_sites=tuple(sorted(kept)),
            ),
        )
        return writer.finish(manifest)


def _check_memory(bundle: Bundle, memory: Memory) -> None:
    """Refuse second moments that cannot fit, before anything is asked."""
    needed = 0
    for graph in bundle.manifest.graphs:
        for site in find_sites(graph, load_model(bundle, graph)):
            linear = site.linears[0]
            tensor = linear.weight.const_value
            assert tensor is not None
            num_inputs = int(tensor.shape[1 if linear.transposed else 0])
            needed += num_inputs**2 * MOMENT_BYTES
    room = memory.room_bytes
    if room is not None and needed > room:
        raise InputError(
            f"bundle {bundle.path} | second moments of its activations take {spell_bytes(needed)} "
            f"| expected {spell_bytes(room)} at most, the memory that is free | --rounding "
            "nearest, or a machine with more memory"
        )
