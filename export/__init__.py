"""Turn a checkpoint into a bundle of chained ONNX stage graphs."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sparsevlm_trt.export.exporter import export_bundle

__all__ = ["export_bundle"]


def __getattr__(name: str) -> Any:
    # Help pages and the reading of graphs import this package; only exporting needs PyTorch.
    if name == "export_bundle":
        from sparsevlm_trt.export.exporter import export_bundle

        return export_bundle
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
