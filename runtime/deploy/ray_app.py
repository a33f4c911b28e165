"""The same application on Ray Serve: replicas, autoscaling by their queues, rolling updates."""

from __future__ import annotations

import socket
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from starlette.types import ASGIApp

from sparsevlm_trt.runtime.bundle import Bundle
from sparsevlm_trt.runtime.errors import InputError, RunnerError
from sparsevlm_trt.runtime.extras import MissingPackageError
from sparsevlm_trt.runtime.serving.app import make_app
from sparsevlm_trt.runtime.serving.desk import Desk
from sparsevlm_trt.runtime.serving.remote_pictures import fetch_picture
from sparsevlm_trt.runtime.serving.settings import Settings
from sparsevlm_trt.runtime.session import Session

__all__ = ["Fleet", "deploy_on_ray"]

APP_NAME = "sparsevlm"
_REACH_SECONDS = 5.0  # how long a cluster may take to be reached
_LOOK_S = 0.2  # how often Serve is asked whether it is ready
_PROXY_START_S = 180.0  # several starts of a proxy on a busy machine


@dataclass(frozen=True, slots=True)
class Fleet:
    """How many replicas there are, and what each may use.

    Attributes:
        min_replicas: Always there.
        max_replicas: At most.
        target_ongoing: Requests for each replica at which another one starts.
        num_cpus: Processor cores of each.
        num_gpus: GPUs of each, or a share of one.
        health_period_s: How often a replica is asked whether it lives.
    """

    min_replicas: int = 1
    max_replicas: int = 4
    target_ongoing: float = 8.0
    num_cpus: float = 1.0
    num_gpus: float = 0.0
    health_period_s: float = 5.0

    def __post_init__(self) -> None:
        """Check the two bounds.

        Raises:
            InputError: There would be more replicas than allowed.
        """
        if not 1 <= self.min_replicas <= self.max_replicas:
            raise InputError(
                f"deploy ray | got {self.min_replicas} to {self.max_replicas} replicas | expected "
                "1 or more, and the most not below the least | change --min-replicas or "
                "--max-replicas"
            )


class _Replica:
    """One process with the bundle; its ASGI application is made when it starts."""

    app: ASGIApp | None = None

    def __init__(self, bundle: str, settings: Settings, runner_options: dict[str, Any]) -> None:
        self._session = Session.load(bundle, **runner_options)
        self._desk = Desk(self._session, settings, fetch_picture)
        _Replica.app = make_app(self._desk)

    def check_health(self) -> None:
        """Ray starts a replica anew when this raises."""
        if not self._desk.engine.is_alive:
            raise RuntimeError("the engine has ended")


def _application() -> ASGIApp:
    """Return the application of this process's replica; Ray asks once it has been made."""
    assert _Replica.app is not None
    return _Replica.app


def deploy_on_ray(
    bundle: Path,
    settings: Settings,
    fleet: Fleet,
    *,
    host: str,
    port: int,
    address: str | None = None,
    runner_options: dict[str, Any] | None = None,
) -> str:
    """Start the application on a Ray cluster, or replace the one that runs there.

    A bundle that takes another's place is rolled out replica by replica: each new one must have
    loaded it before an old one ends.

    Args:
        bundle: A bundle that every node finds at this path; verified here first.
        settings: Limits and defaults of each replica.
        fleet: How many replicas.
        host: Address that Ray's proxies listen on.
        port: Their port.
        address: Of a running cluster; None starts one on this machine.
        runner_options: What the engine takes.

    Returns:
        The URL.

    Raises:
        BundleError: The bundle is missing, incomplete or altered.
        MissingPackageError: Ray is not installed.
        RunnerError: The cluster is not there, or the bundle or the proxies do not start on it.
    """
    Bundle.open(bundle)
    if address is not None:
        _check_reachable(address)
    try:
        import ray
        from ray import serve
    except ImportError as error:
        raise MissingPackageError(
            f"deploy ray | {error} | expected Ray Serve | pip install 'ray[serve]'"
        ) from error
    # A cluster of our own stays on this machine, whatever networks that has.
    here = {"_node_ip_address": "127.0.0.1", "include_dashboard": False}
    try:
        ray.init(address=address, ignore_reinit_error=True, **({} if address else here))
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise RunnerError(
            f"deploy ray --address | got {_line(error)} | expected a running cluster | start one "
            "with `ray start --head`, or leave out --address"
        ) from error
    with suppress(ray.exceptions.RayActorError, TimeoutError):
        # Serve kills a proxy that takes 15 s to start and makes another: that is awaited below.
        serve.start(http_options={"host": host, "port": port})
    replica = serve.deployment(
        serve.ingress(_application)(_Replica),
        name="bundle",
        # More than the replica's own queue takes: it answers 429 by itself.
        max_ongoing_requests=settings.num_slots + settings.num_waiting + 8,
        autoscaling_config={
            "min_replicas": fleet.min_replicas,
            "max_replicas": fleet.max_replicas,
            "target_ongoing_requests": fleet.target_ongoing,
        },
        health_check_period_s=fleet.health_period_s,
        health_check_timeout_s=fleet.health_period_s,
        graceful_shutdown_timeout_s=settings.timeout_s,
        ray_actor_options={"num_cpus": fleet.num_cpus, "num_gpus": fleet.num_gpus},
    )
    path = str(bundle.resolve())
    try:
        serve.run(replica.bind(path, settings, runner_options or {}), name=APP_NAME)
        _await_running(serve)
    except (RuntimeError, TimeoutError, ray.exceptions.RayError) as error:
        raise RunnerError(
            f"deploy ray | got {_line(error)} | expected replicas and a proxy that start | see "
            "logs/serve in the cluster's session folder (/tmp/ray/session_latest)"
        ) from error
    return f"http://{host}:{port}"


def _await_running(serve: Any) -> None:
    """Wait until all old replicas are replaced and a proxy answers.

    Raises:
        TimeoutError: No proxy has started in time.
    """
    while serve.status().applications[APP_NAME].status != "RUNNING":
        time.sleep(_LOOK_S)
    end = time.monotonic() + _PROXY_START_S
    while "HEALTHY" not in serve.status().proxies.values():
        if time.monotonic() > end:
            raise TimeoutError(f"no proxy in {_PROXY_START_S:.0f} s")
        time.sleep(_LOOK_S)


def _line(error: Exception) -> str:
    """The first line that an error says, or its name."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def _check_reachable(address: str) -> None:
    """Refuse a cluster that nobody answers for: Ray itself would try again for minutes."""
    host, _, port = address.rpartition("://")[2].rpartition(":")
    if not port.isdecimal():
        return  # "auto", or a name that Ray resolves itself
    try:
        socket.create_connection((host, int(port)), timeout=_REACH_SECONDS).close()
    except OSError as error:
        raise RunnerError(
            f"deploy ray --address | got {address}: {error.strerror or error} | expected a "
            "running cluster | start one with `ray start --head`, or leave out --address"
        ) from error
