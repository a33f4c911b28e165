"""PyTorch in float16 against PyTorch in float32: how often half precision alone changes an answer.

    python benchmarks/half_precision.py BUNDLE CHECKPOINT --data FILE --out half.jsonl
    sparsevlm evaluate BUNDLE --data FILE --agree-with half.jsonl

BUNDLE is a float32 one. The yardstick of a float16 bundle: its answers cannot be expected to be
nearer to float32 than these. Products add in float32 and round once, as tensor cores do; all else
is float16 as transformers computes it.
"""

from __future__ import annotations

from pathlib import Path

import click
import torch
from torch import Tensor, nn

from sparsevlm_trt.export.parity.reference_model import ReferenceModel
from sparsevlm_trt.export.reference_answers import answer_all
from sparsevlm_trt.runtime.bundle import Bundle
from sparsevlm_trt.runtime.commands.sweep_options import read_configs
from sparsevlm_trt.runtime.evaluation.answers import AnswerFile
from sparsevlm_trt.runtime.evaluation.job import Job, Settings
from sparsevlm_trt.runtime.evaluation.meter import Meter
from sparsevlm_trt.runtime.evaluation.questions import read_questions


class HalfLinear(nn.Module):
    """A linear layer of float16 inputs, weights and outputs that adds in float32."""

    def __init__(self, base: nn.Linear) -> None:
        """Keep `base`, which is float16, and a float32 copy of its numbers."""
        super().__init__()
        self.base = base
        self.copied = [None if p is None else p.detach().float() for p in (base.weight, base.bias)]

    @property
    def weight(self) -> Tensor:
        """`[out, in]`; models ask a layer for its type by it."""
        return self.base.weight

    def forward(self, hidden: Tensor) -> Tensor:
        """`[..., in]` to `[..., out]`, float16."""
        return nn.functional.linear(hidden.float(), *self.copied).half()


def halve(model: nn.Module) -> None:
    """Let a model compute in float16, in place."""
    model.half()
    for path, module in list(model.named_modules()):
        if isinstance(module, nn.Linear):
            parent, _, name = path.rpartition(".")
            setattr(model.get_submodule(parent), name, HalfLinear(module))


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@click.argument("checkpoint", type=click.Path(path_type=Path))
@click.option("--data", required=True, type=click.Path(path_type=Path))
@click.option("--budgets", default="none,192,128,96,64,32", show_default=True)
@click.option("--limit", type=int)
@click.option("--out", required=True, type=click.Path(path_type=Path))
@click.option("--threads", default=2, show_default=True)
def main(
    bundle: Path,
    checkpoint: Path,
    data: Path,
    budgets: str,
    limit: int | None,
    out: Path,
    threads: int,
) -> None:
    """Answer the questions of FILE in PyTorch's float16."""
    torch.set_num_threads(threads)
    opened = Bundle.open(bundle, verify=False)
    questions = read_questions(data, skip_broken=False, limit=limit)
    settings = Settings(
        bundle_sha256=opened.sha256,
        runner="reference-half",
        max_new_tokens=8,
        seed=0,
        suffix="",
    )
    job = Job(opened, questions, read_configs(opened.manifest, budgets, "sparsevlm", ()), settings)
    model = ReferenceModel(checkpoint, opened.manifest)
    halve(model.model)
    with AnswerFile(out) as file:
        missing = len(job.keys - file.answers.keys())
        with Meter(missing, len(job.keys) - missing) as meter:
            answer_all(job, model, file, meter)


if __name__ == "__main__":
    main()
