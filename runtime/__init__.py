"""Run a bundle: all that a deploy box needs, without PyTorch."""

from sparsevlm_trt.runtime.answer_row import Result
from sparsevlm_trt.runtime.bundle import Bundle
from sparsevlm_trt.runtime.session import Session
from sparsevlm_trt.runtime.trace import StageTrace, Trace

__all__ = ["Bundle", "Result", "Session", "StageTrace", "Trace"]
