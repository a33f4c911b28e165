"""Does a bundle compute what PyTorch computes: its graphs, its decisions, its answers."""

from sparsevlm_trt.export.parity.check import check_parity
from sparsevlm_trt.export.parity.report import ParityReport

__all__ = ["ParityReport", "check_parity"]
