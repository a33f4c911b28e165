"""What a bundle's graphs weigh, each file counted once."""

from __future__ import annotations

from sparsevlm_trt.runtime.bundle import Bundle

__all__ = ["weight_bytes"]


def weight_bytes(bundle: Bundle) -> int:
    """Bytes of all graphs and of the weights that lie beside them."""
    manifest = bundle.manifest
    files = {relpath for graph in manifest.graphs.values() for relpath in graph.weights}
    graphs = sum(graph.size_bytes for graph in manifest.graphs.values())
    return graphs + sum(manifest.files[relpath].size_bytes for relpath in files)
