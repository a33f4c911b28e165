"""Turn a checkpoint into a bundle of chained ONNX stage graphs."""
