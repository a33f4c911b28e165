"""A parsed graph: TensorRT's own view of it, and every objection it raises."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sparsevlm_trt.runtime.tensorrt.builder_log import BuilderFigures, make_log

__all__ = ["ParsedNetwork"]


class ParsedNetwork:
    """Builder, network and parser of one graph, kept together: the parser does not hold its own.

    Attributes:
        trt: The library's module.
        builder: Its builder.
        network: The network; incomplete where there are problems.
        figures: What was logged.
        problems: Why the parser refuses the graph, one sentence each; empty where it does not.
    """

    def __init__(self, trt: Any, path: Path) -> None:
        """Parse an ONNX file; its weights are mapped, not read."""
        self.trt = trt
        self.figures = BuilderFigures()
        self._log = make_log(trt, self.figures)
        self.builder = trt.Builder(self._log)
        self.network = self.builder.create_network(0)
        self._parser = trt.OnnxParser(self.network, self._log)
        is_parsed = self._parser.parse_from_file(str(path))
        self.problems = [] if is_parsed else self._objections()

    def _objections(self) -> list[str]:
        errors = [self._parser.get_error(i) for i in range(self._parser.num_errors)]
        # A model whose attributes are checked before its nodes are named: the log alone knows.
        told = [_objection(error) for error in errors]
        return told or self.figures.errors or ["the parser refuses it without a reason"]


def _objection(error: Any) -> str:
    name, operator = error.node_name(), error.node_operator()
    number = error.node()
    where = f"node {name or number}" if name or number >= 0 else "a node"
    kind = f" ({operator})" if operator else ""
    return f"{where}{kind} | {' '.join(error.desc().split())[:200]}"
