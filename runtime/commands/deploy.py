"""`sparsevlm deploy`: a bundle on Triton, on Ray Serve, or on a box of its own."""

from __future__ import annotations

import time
from pathlib import Path

import click

from sparsevlm_trt.runtime.commands.options import PROVIDERS, debug_option
from sparsevlm_trt.runtime.extras import load_attribute

__all__ = ["deploy"]

_DEPLOY = "sparsevlm_trt.runtime.deploy"
_bundle = click.argument("bundle", type=click.Path(path_type=Path))
_out = click.argument("out", type=click.Path(path_type=Path))


@click.group()
@debug_option
def deploy() -> None:
    """Put a bundle on the serving stack that you run."""


@deploy.command()
@_bundle
@_out
@click.option("--name", help="The model's name.  [default: the bundle's folder name]")
@click.option("--slots", type=click.IntRange(1, 256), default=8, show_default=True)
@click.option("--queue", type=click.IntRange(1, 100_000), default=64, show_default=True)
@click.option(
    "--provider",
    default="cpu",
    show_default=True,
    metavar="NAME",
    help=f"Execution provider: {', '.join(PROVIDERS)} or a full name.",
)
@debug_option
def triton(
    bundle: Path, out: Path, *, name: str | None, slots: int, queue: int, provider: str
) -> None:
    """Write OUT, an NVIDIA Triton model repository of BUNDLE.

    It runs in Triton's Python backend, whose Python needs sparsevlm-trt[serve]. A request is the
    body of /v1/chat/completions as one string; so is each response.
    """
    write = load_attribute(f"{_DEPLOY}.triton:write_triton_repository", extra=None, who="deploy")
    chosen = name or bundle.resolve().name
    full = PROVIDERS.get(provider.lower(), provider)
    write(bundle, out, name=chosen, slots=slots, queue=queue, provider=full)
    click.echo(f"tritonserver --model-repository={out.resolve()}")


@deploy.command()
@_bundle
@_out
@click.option(
    "--options", default="", metavar="TEXT", help="What start.sh adds to `sparsevlm serve`."
)
@debug_option
def edge(bundle: Path, out: Path, *, options: str) -> None:
    """Write OUT, a folder that serves BUNDLE on a box without compiler and without network.

    It holds the bundle, our code, the list of pinned wheels, scripts, a systemd unit and
    Dockerfiles; its README tells the steps.
    """
    write = load_attribute(f"{_DEPLOY}.edge:write_edge_folder", extra="serve", who="deploy edge")
    write(bundle, out, options=options)
    click.echo(f"{out}/README.md tells the steps")


@deploy.command()
@_bundle
@click.option("--host", default="127.0.0.1", show_default=True)
@click.option("--port", type=click.IntRange(1, 65535), default=8000, show_default=True)
@click.option("--address", help="A running cluster.  [default: one on this machine]")
@click.option("--model-name", help="What clients call the model.  [default: the folder's name]")
@click.option("--slots", type=click.IntRange(1, 256), default=8, show_default=True)
@click.option("--queue", type=click.IntRange(1, 100_000), default=64, show_default=True)
@click.option("--min-replicas", type=click.IntRange(1), default=1, show_default=True)
@click.option("--max-replicas", type=click.IntRange(1), default=4, show_default=True)
@click.option(
    "--target-ongoing",
    type=click.FloatRange(0, min_open=True),
    default=8.0,
    show_default=True,
    help="Requests for each replica at which another one starts.",
)
@click.option(
    "--cpus", type=click.FloatRange(0), default=1.0, show_default=True, help="Cores of a replica."
)
@click.option(
    "--gpus", type=click.FloatRange(0), default=0.0, show_default=True, help="GPUs of a replica."
)
@click.option("--detach", is_flag=True, help="Leave it running on --address, and return.")
@debug_option
def ray(
    bundle: Path,
    *,
    host: str,
    port: int,
    address: str | None,
    model_name: str | None,
    slots: int,
    queue: int,
    min_replicas: int,
    max_replicas: int,
    target_ongoing: float,
    cpus: float,
    gpus: float,
    detach: bool,
) -> None:
    """Serve BUNDLE on Ray Serve: replicas of the server, as many as their queues need.

    Call it again with another bundle on the same cluster to roll that out.
    """
    if detach and address is None:
        raise click.UsageError("--detach needs --address: a cluster of our own ends with us.")
    start = load_attribute(f"{_DEPLOY}.ray_app:deploy_on_ray", extra="serve", who="deploy ray")
    fleet = load_attribute(f"{_DEPLOY}.ray_app:Fleet", extra="serve", who="deploy ray")
    settings = load_attribute(
        "sparsevlm_trt.runtime.serving.settings:Settings", extra=None, who="deploy ray"
    )
    url = start(
        bundle,
        settings(model_name or bundle.resolve().name, num_slots=slots, num_waiting=queue),
        fleet(min_replicas, max_replicas, target_ongoing, cpus, gpus),
        host=host,
        port=port,
        address=address,
        runner_options={"threads": max(1, int(cpus))},
    )
    click.echo(f"serving at {url}", err=True)
    while not detach:
        time.sleep(1)
