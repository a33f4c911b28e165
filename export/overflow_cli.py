"""`sparsevlm overflow`: is a model safe in float16?"""

from __future__ import annotations

from pathlib import Path

import click

from sparsevlm_trt.export.scan_report import HEADROOM, Peak, ScannedModel, ScanReport
from sparsevlm_trt.runtime.bundle import Bundle
from sparsevlm_trt.runtime.commands.options import debug_option, json_option
from sparsevlm_trt.runtime.console import Progress, print_json
from sparsevlm_trt.runtime.errors import InputError
from sparsevlm_trt.runtime.session import Session
from sparsevlm_trt.runtime.table import format_table

__all__ = ["overflow"]

_LISTED = 10
_TOLD = {"scale": "residual scale", "island": "float32 island"}


def _helped(peak: Peak, beyond: list[Peak]) -> str:
    """What would bring a tensor within range, or did."""
    if peak.share <= 1:
        return ""
    return _TOLD[peak.remedy] if peak in beyond else "is float32"


@click.command()
@click.argument("path", metavar="BUNDLE", type=click.Path(path_type=Path))
@click.option(
    "--image",
    "images",
    type=click.Path(path_type=Path),
    multiple=True,
    metavar="FILE",
    help="An image to ask about; repeatable. Without: a synthetic one.",
)
@click.option("--question", metavar="TEXT", help="What to ask about each image.")
@click.option("--max-new-tokens", type=click.IntRange(min=1), default=8, show_default=True)
@click.option(
    "--near",
    type=click.FloatRange(min=0, max=1),
    default=0.25,
    show_default=True,
    help="List tensors from this share of 65504 on.",
)
@json_option
@debug_option
def overflow(
    path: Path,
    *,
    images: tuple[Path, ...],
    question: str | None,
    max_new_tokens: int,
    near: float,
    as_json: bool,
) -> None:
    """Answer prompts with BUNDLE, a float32 one, and list what comes near float16's limit.

    Pruned and unpruned. Exit code 1 if a tensor goes beyond 65504 that a float16 bundle made like
    this one would not hold. With --json the report is what `sparsevlm export --peaks` takes to
    make one that does.
    """
    from sparsevlm_trt.export.float16_plan import read_float16_report, unsafe_peaks
    from sparsevlm_trt.export.overflow import PeakRunner
    from sparsevlm_trt.export.parity.prompts import ask, make_prompts

    bundle = Bundle.open(path)
    model = bundle.manifest.model
    if model.dtype != "float32":
        raise InputError(
            f"bundle {path} | {model.dtype} | expected float32: half precision hides what is "
            f"beyond it | sparsevlm export {model.source} {path}-float32 --dtype float32"
        )
    runner = PeakRunner()
    methods = dict.fromkeys((bundle.manifest.plan.method, "none"))
    with runner, Progress("overflow", quiet=as_json) as progress:
        runner.load(bundle, list(bundle.manifest.graphs))
        session = Session(bundle, runner)
        prompts = make_prompts(session, images, question, seed=0)
        total = len(prompts) * len(methods)
        for number, prompt in enumerate(prompts):
            for index, method in enumerate(methods):
                progress(f"{prompt.label}, {method}", number * len(methods) + index, total)
                ask(session, prompt, method=method, max_new_tokens=max_new_tokens)
    peaks = runner.peaks()
    beyond = unsafe_peaks(peaks, read_float16_report(bundle))
    close = [peak for peak in peaks if peak.share >= near]
    if as_json:
        # An export needs all that it must bring below the headroom, whatever is asked for.
        needed = [peak for peak in peaks if peak.share >= min(near, HEADROOM)]
        grown = max((p.magnitude for p in peaks if p.remedy == "scale"), default=0.0)
        report = ScanReport(
            bundle=str(path),
            model=ScannedModel.of(model),
            num_tensors=len(peaks),
            safe=not beyond,
            residual_shift=model.residual_shift or 0,
            residual_peak=grown / model.residual_scale,
            peaks=tuple(needed or peaks[:_LISTED]),
        )
        print_json(report)
    else:
        rows = [
            (
                peak.graph,
                peak.node,
                f"{peak.magnitude:.4g}",
                f"{peak.share:.1%}",
                _helped(peak, beyond),
            )
            for peak in close or peaks[:_LISTED]
        ]
        header = ["graph", "made by", "largest", "of 65504", "what helps"]
        click.echo(format_table(header, rows))
        click.echo(
            f"\n{len(peaks)} tensors, {len(close)} from {near:.0%} of float16's limit on, "
            f"{len(beyond)} beyond what a float16 bundle made alike would hold."
        )
        if beyond:
            click.echo(
                f"\nTo make one that holds them:\n"
                f"  sparsevlm overflow {path} --json > peaks.json\n"
                f"  sparsevlm export {model.source} OUT --dtype float16 --peaks peaks.json"
            )
    if beyond:
        click.get_current_context().exit(1)
