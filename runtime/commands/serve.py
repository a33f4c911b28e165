"""`sparsevlm serve`: a bundle behind OpenAI's chat API."""

from __future__ import annotations

from pathlib import Path

import click

from sparsevlm_trt.runtime.commands.options import debug_option, engine_options, runner_options
from sparsevlm_trt.runtime.serving.request_log import log_to_stderr
from sparsevlm_trt.runtime.serving.server import listen, serve_session
from sparsevlm_trt.runtime.serving.settings import ImageLimits, Settings
from sparsevlm_trt.runtime.session import IMAGE_CACHE_BYTES, Session

__all__ = ["serve"]

_DEFAULT = Settings("")


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", type=click.IntRange(0, 65535), default=8000, show_default=True)
@click.option("--model-name", help="What clients call the model.  [default: the folder's name]")
@click.option(
    "--slots",
    type=click.IntRange(1, 256),
    default=_DEFAULT.num_slots,
    show_default=True,
    help="Requests that decode together.",
)
@click.option(
    "--queue",
    type=click.IntRange(1, 100_000),
    default=_DEFAULT.num_waiting,
    show_default=True,
    help="Requests that may wait; one more gets 429.",
)
@click.option(
    "--timeout",
    type=click.FloatRange(0, min_open=True),
    default=_DEFAULT.timeout_s,
    show_default=True,
    help="Seconds that a request may take in all.",
)
@click.option(
    "--drain",
    type=click.IntRange(0),
    default=30,
    show_default=True,
    help="Seconds that running requests get after SIGTERM.",
)
@click.option(
    "--max-new-tokens",
    type=click.IntRange(min=1),
    default=_DEFAULT.max_new_tokens,
    show_default=True,
    help="Longest answer that a request may ask for.",
)
@click.option(
    "--target-ttft",
    type=click.FloatRange(0, min_open=True),
    metavar="SECONDS",
    help="Lower the default budget while the first token would come later.",
)
@click.option(
    "--floor",
    type=click.IntRange(min=1),
    default=_DEFAULT.floor,
    show_default=True,
    help="Lowest budget that --target-ttft takes.",
)
@click.option(
    "--whole",
    is_flag=True,
    help="Prune nothing by default; with --target-ttft, only while the queue is long.",
)
@click.option(
    "--keys",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Take only these API keys: lines NAME SHA256-OF-KEY.",
)
@click.option(
    "--allow-host",
    "hosts",
    multiple=True,
    metavar="HOST",
    help="Fetch pictures of this host over https; repeatable.  [default: none]",
)
@click.option(
    "--image-cache-mb",
    type=click.IntRange(min=0),
    default=IMAGE_CACHE_BYTES >> 20,
    show_default=True,
    help="Remember what vision made of the latest images, in megabytes; 0 remembers nothing.",
)
@runner_options
@click.option("--log-content", is_flag=True, help="Log prompts and answers too.")
@debug_option
def serve(
    bundle: Path,
    *,
    host: str,
    port: int,
    model_name: str | None,
    slots: int,
    queue: int,
    timeout: float,
    drain: int,
    max_new_tokens: int,
    target_ttft: float | None,
    floor: int,
    whole: bool,
    keys: Path | None,
    hosts: tuple[str, ...],
    image_cache_mb: int,
    runner: str,
    providers: tuple[str, ...],
    threads: int | None,
    log_content: bool,
) -> None:
    """Serve BUNDLE behind OpenAI's chat API, with metrics and a page to try it.

    Requests decode together, each with the visual budget that it names in the field "sparsevlm".
    """
    settings = Settings(
        model_name=model_name or bundle.resolve().name,
        num_slots=slots,
        num_waiting=queue,
        timeout_s=timeout,
        max_new_tokens=max_new_tokens,
        default_new_tokens=min(_DEFAULT.default_new_tokens, max_new_tokens),
        target_ttft_s=target_ttft,
        floor=floor,
        whole=whole,
        log_content=log_content,
        images=ImageLimits(hosts=frozenset(hosts)),
    )
    with listen(host, port) as listener:
        address, number = listener.getsockname()[:2]
        log_to_stderr()
        engine = engine_options(providers, threads)
        with Session.load(
            bundle, runner, image_cache_bytes=image_cache_mb << 20, **engine
        ) as session:
            shown = f"[{address}]" if ":" in address else address
            click.echo(f"serving {settings.model_name} at http://{shown}:{number}", err=True)
            serve_session(session, settings, listener, keys=keys, drain_s=drain)
