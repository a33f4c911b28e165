"""The types and opsets a bundle can have; importing it loads nothing, so help pages may."""

from __future__ import annotations

__all__ = ["DTYPES", "OPSETS"]

DTYPES = ("float32", "float16")
# 23 brought Attention, RMSNormalization and RotaryEmbedding; 24 is the newest TensorRT parses.
OPSETS = (23, 24)
