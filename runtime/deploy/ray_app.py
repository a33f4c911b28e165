"""The same application on Ray Serve: replicas, autoscaling by their queues, rolling updates."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from starlette.types import ASGIApp

from sparsevlm_trt.runtime.bundle import Bundle
from sparsevlm_trt.runtime.extras import MissingPackageError
from sparsevlm_trt.runtime.serving.app import make_app
from sparsevlm_trt.runtime.serving.desk import Desk
from sparsevlm_trt.runtime.serving.remote_pictures import fetch_picture
from sparsevlm_trt.runtime.serving.settings import Settings
from sparsevlm_trt.runtime.session import Session

__all__ = ["Fleet", "deploy_on_ray"]

APP_NAME = "sparsevlm"


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
    """
    Bundle.open(bundle)
    try:
        import ray
        from ray import serve
    except ImportError as error:
        raise MissingPackageError(
            f"deploy ray | {error} | expected Ray Serve | pip install 'ray[serve]'"
        ) from error
    # A cluster of our own stays on this machine, whatever networks that has.
    here = {"_node_ip_address": "127.0.0.1", "include_dashboard": False}
    ray.init(address=address, ignore_reinit_error=True, **({} if address else here))
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
    serve.run(replica.bind(path, settings, runner_options or {}), name=APP_NAME)
    while serve.status().applications[APP_NAME].status != "RUNNING":
        time.sleep(0.2)
    return f"http://{host}:{port}"
