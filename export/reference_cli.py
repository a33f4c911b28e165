"""`sparsevlm reference`: a set of questions, answered in PyTorch."""

from __future__ import annotations

from pathlib import Path

import click

from sparsevlm_trt.runtime.bundle import Bundle
from sparsevlm_trt.runtime.commands.options import debug_option
from sparsevlm_trt.runtime.commands.sweep_options import read_configs, sweep_options
from sparsevlm_trt.runtime.evaluation.answers import AnswerFile
from sparsevlm_trt.runtime.evaluation.job import Job, Settings
from sparsevlm_trt.runtime.evaluation.meter import Meter
from sparsevlm_trt.runtime.evaluation.questions import read_questions

__all__ = ["reference"]


@click.command(short_help="Answer a set of questions in PyTorch, to compare with.")
@click.argument("bundle", type=click.Path(path_type=Path))
@click.argument("checkpoint", type=click.Path(path_type=Path))
@sweep_options
@click.option(
    "--out",
    required=True,
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Where the answers go, a JSON object a line.",
)
@click.option("--threads", type=click.IntRange(min=1), help="Processor threads of PyTorch.")
@debug_option
def reference(
    bundle: Path,
    checkpoint: Path,
    *,
    data: Path,
    budgets: str | None,
    methods: str | None,
    schedules: tuple[str, ...],
    limit: int | None,
    max_new_tokens: int,
    suffix: str,
    seed: int,
    on_error: str,
    out: Path,
    threads: int | None,
) -> None:
    """Answer questions with the CHECKPOINT that BUNDLE was made of, in PyTorch.

    The same questions in the same configurations as `sparsevlm evaluate`, which then compares:
    `sparsevlm evaluate BUNDLE --data FILE --agree-with OUT`. Goes on where it was interrupted.
    """
    opened = Bundle.open(bundle, verify=False)
    questions = read_questions(data, skip_broken=on_error == "skip", limit=limit)
    configs = read_configs(opened.manifest, budgets, methods, schedules)
    settings = Settings(
        bundle_sha256=opened.sha256,
        runner="reference",
        max_new_tokens=max_new_tokens,
        seed=seed,
        suffix=suffix,
    )
    job = Job(opened, questions, configs, settings)
    with AnswerFile(out) as file:
        missing = len(job.keys - file.answers.keys())
        if missing:
            # Seconds of import, needed by nothing above.
            import torch

            from sparsevlm_trt.export.parity.reference_model import ReferenceModel
            from sparsevlm_trt.export.reference_answers import answer_all

            if threads is not None:
                torch.set_num_threads(threads)
            model = ReferenceModel(checkpoint, opened.manifest)
            with Meter(missing, len(job.keys) - missing) as meter:
                answer_all(job, model, file, meter)
    click.echo(f"{len(job.keys)} answers in {out}")
