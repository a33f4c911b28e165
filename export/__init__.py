"""Turn a checkpoint into a bundle of chained ONNX stage graphs."""

from sparsevlm_trt.export.exporter import export_bundle

__all__ = ["export_bundle"]
