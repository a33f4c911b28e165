"""TensorRT and TensorRT-RTX: checking and building engines, and running them."""
