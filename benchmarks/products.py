"""What matrix products alone would gain from pruning: the limit of `chain.py`'s gain here.

    python benchmarks/products.py BUNDLE [--threads 2]

A product with few rows reaches less than one with many, since its weights have to be read all the
same. Times products at exactly the numbers of tokens that the stages see, and computes from the
chain's operations how far the speed-up by products alone stays behind that by operations.
"""

from __future__ import annotations

from pathlib import Path

import click
from chain import BUDGETS, machine, pruning_of

from sparsevlm_trt.export.ceilings import Products
from sparsevlm_trt.runtime import Session
from sparsevlm_trt.runtime.flops import ChainCost, chain_cost

TEXT_LENGTHS = (14, 64, 119)  # those of chain.py's table


def cost_of(session: Session, budget: int | None, num_text: int) -> ChainCost:
    """Operations of a prompt with one picture."""
    manifest = session.bundle.manifest
    assert manifest.vision is not None
    return chain_cost(
        manifest.model,
        None,
        manifest.stages,
        pruning_of(session, budget).schedule,
        num_visual=manifest.vision.num_visual,
        num_text=num_text,
    )


@click.command()
@click.argument("bundle", type=click.Path(exists=True, path_type=Path))
@click.option("--threads", type=int)
def main(bundle: Path, threads: int | None) -> None:
    """Print the throughput by rows, and the gain that it leaves."""
    with Session.load(bundle, verify=False, threads=threads) as session:
        costs = {
            (num_text, budget): cost_of(session, budget, num_text)
            for num_text in TEXT_LENGTHS
            for budget in BUDGETS
        }
        lengths = {stage.num_tokens for cost in costs.values() for stage in cost.stages}
        products = Products(session.runner)
        speed = {rows: products.flops_per_s(rows) for rows in sorted(lengths)}
    click.echo(" ".join(f"{name} {value}" for name, value in machine().items()))
    click.echo(f"{'rows':>5} {'GFLOP/s':>8}")
    for rows, flops_per_s in speed.items():
        click.echo(f"{rows:>5} {flops_per_s / 1e9:8.0f}")
    click.echo(f"{'text':>5} {'budget':>6} {'by FLOPs':>8} {'gain left':>9}")
    for (num_text, budget), cost in costs.items():
        if budget is None:
            continue
        whole = costs[num_text, None]
        seconds = [
            sum(stage.prefill_flops / speed[stage.num_tokens] for stage in each.stages)
            for each in (whole, cost)
        ]
        promised = whole.prefill_flops / cost.prefill_flops
        click.echo(
            f"{num_text:>5} {budget:>6} {promised:8.2f} {seconds[0] / seconds[1] / promised:9.2f}"
        )


if __name__ == "__main__":
    main()
