"""All commands by name: where each lives, what it needs, and its line in the help."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["COMMANDS", "CommandSpec"]


@dataclass(frozen=True, slots=True)
class CommandSpec:
    """A command that is imported only when it is called.

    Attributes:
        target: `module:name` of its click command.
        summary: What it does, in one line.
        extra: The extra whose packages it needs; None for the base install.
        hidden: Whether the help leaves it out.
    """

    target: str
    summary: str
    extra: str | None = None
    hidden: bool = False


_RUNTIME, _EXPORT = "sparsevlm_trt.runtime.commands", "sparsevlm_trt.export"

COMMANDS: dict[str, CommandSpec] = {
    "export": CommandSpec(
        f"{_EXPORT}.cli:export", "Turn a checkpoint into a bundle of ONNX graphs.", "export"
    ),
    "run": CommandSpec(f"{_RUNTIME}.run:run", "Answer a question about an image with a bundle."),
    "look": CommandSpec(
        f"{_RUNTIME}.look:look", "Draw which patches of an image an answer was made from."
    ),
    "inspect": CommandSpec(
        f"{_RUNTIME}.inspect:inspect", "Show what a bundle holds, and what a prompt would cost."
    ),
    "compile": CommandSpec(
        f"{_RUNTIME}.compile:compile_bundle", "Build a bundle's TensorRT engines.", "tensorrt"
    ),
    "overflow": CommandSpec(
        f"{_EXPORT}.overflow_cli:overflow", "List the tensors near float16's limit.", "export"
    ),
    "engines": CommandSpec(
        f"{_RUNTIME}.engines:engines", "List, verify and prune a bundle's engines."
    ),
    "parity": CommandSpec(
        f"{_EXPORT}.parity_cli:parity",
        "Compare a bundle with its checkpoint in PyTorch.",
        "export",
    ),
    "calibrate": CommandSpec(
        "sparsevlm_trt.calibration.cli:calibrate",
        "Fit a bundle to your data: smaller numbers, a schedule that fits.",
        "export",
    ),
    "evaluate": CommandSpec(
        f"{_RUNTIME}.evaluate:evaluate", "Measure what pruning costs on a set of questions."
    ),
    "reference": CommandSpec(
        f"{_EXPORT}.reference_cli:reference",
        "Answer a set of questions in PyTorch, to compare with.",
        "export",
    ),
    "serve": CommandSpec(
        f"{_RUNTIME}.serve:serve", "Serve a bundle behind OpenAI's chat API.", "serve"
    ),
    "deploy": CommandSpec(
        f"{_RUNTIME}.deploy:deploy", "Put a bundle on Triton, on Ray Serve, or on an edge box."
    ),
    "bench": CommandSpec(
        f"{_RUNTIME}.bench:bench", "Measure what answers cost on this machine, engine by engine."
    ),
    "doctor": CommandSpec(
        f"{_RUNTIME}.doctor:doctor", "Show what this machine can run, and what is missing."
    ),
    "demo": CommandSpec(
        f"{_EXPORT}.demo_cli:demo", "Answer three questions with the demo model.", "demo"
    ),
    "help-page": CommandSpec(
        f"{_RUNTIME}.help_page:help_page", "Write docs/cli.md to stdout.", "demo", hidden=True
    ),
}
