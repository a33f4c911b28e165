"""Build one graph with TensorRT in a process of its own: its builder may end the process.

Reads `{"graph": path, "shapes": {input: [min, opt, max]}, "values": {...}}` from standard input
and writes what came of it to standard output, as JSON. The values are those of shape tensors.
"""

from __future__ import annotations

import json
import re
import sys

import tensorrt

WEIGHTS = re.compile(r"Total Weights Memory: (\d+) bytes")
SCRATCH = re.compile(r"Scratch Memory: (\d+) bytes")


class Log(tensorrt.ILogger):
    """Keeps what the parser and the builder say."""

    def __init__(self) -> None:
        tensorrt.ILogger.__init__(self)
        self.lines: list[tuple[str, str]] = []

    def log(self, severity: tensorrt.ILogger.Severity, message: str) -> None:
        self.lines.append((severity.name, message))


Ranges = dict[str, list[list[int]]]


def build(graph: str, shapes: Ranges, values: Ranges) -> dict[str, object]:
    log = Log()
    builder = tensorrt.Builder(log)
    network = builder.create_network(0)
    parser = tensorrt.OnnxParser(network, log)
    if not parser.parse_from_file(graph):
        errors = [str(parser.get_error(i)) for i in range(parser.num_errors)]
        return {"parsed": False, "built": False, "errors": errors}
    profile = builder.create_optimization_profile()
    shape_tensors = []
    for i in range(network.num_inputs):
        tensor = network.get_input(i)
        if tensor.is_shape_tensor:
            shape_tensors.append(tensor.name)
            profile.set_shape_input(tensor.name, *values[tensor.name])
        else:
            profile.set_shape(tensor.name, *(tuple(shape) for shape in shapes[tensor.name]))
    config = builder.create_builder_config()
    config.add_optimization_profile(profile)
    plan = builder.build_serialized_network(network, config)
    weights = [int(n) for _, line in log.lines for n in WEIGHTS.findall(line)]
    scratch = [int(n) for _, line in log.lines for n in SCRATCH.findall(line)]
    return {
        "parsed": True,
        "built": plan is not None,
        "errors": [line for severity, line in log.lines if "ERROR" in severity],
        "warnings": [line for severity, line in log.lines if severity == "WARNING"],
        "unused": [line for _, line in log.lines if "Unused Input" in line],
        "inputs": [network.get_input(i).name for i in range(network.num_inputs)],
        "shape_tensors": shape_tensors,
        "scratch_bytes": max(scratch, default=0),
        "weight_bytes": max(weights, default=0),
    }


if __name__ == "__main__":
    json.dump(build(**json.load(sys.stdin)), sys.stdout)
