"""The composition root: settings in, Serve applications out. All deployments are wired here.

`build` makes the application that scores, `build_management` the one under /models. `serve run
serve_config.yaml` and `axon serve` call both with the same arguments.
"""

from __future__ import annotations

from typing import Any

import ray
from ray import serve
from ray.serve import Application
from ray.serve.config import AutoscalingConfig, RequestRouterConfig
from ray.serve.context import _get_global_client

from deployments.config import ScalingSettings, Settings, read_settings, read_trust
from deployments.host import is_loopback
from deployments.layers.deployment import LayerDeployment
from deployments.layers.router import SpeakingFirst
from deployments.management.app import Manage
from deployments.management.detectors import Detectors
from deployments.scoring.app import Ingress
from ensemble.layers import LAYERS

__all__ = ["InsecureBinding", "build", "build_management"]

AUTO_SHARE = 0.25  # of a GPU, for `gpus: auto`: four layers fit on one card
# the minimum that Serve allows with its metrics interval of 10 s; Serve's own 30 s reacts too late
AUTOSCALING_LOOK_BACK_S = 11.0


def build(args: dict[str, Any]) -> Application:
    """Build the scoring application for `args`, which override configs/default.yaml.

    Raises:
        pydantic.ValidationError: a setting is unknown or invalid, or the trust list has mistakes;
            all are listed.
        InsecureBinding: authentication is off, and Serve does not listen on loopback only.
    """
    settings = read_settings(args)
    _require_auth_or_loopback(settings)
    read_trust(settings)  # a mistake in it must stop the start, not a replica later
    values = settings.model_dump(mode="json")
    replica_options: dict[str, Any] = settings.replicas.model_dump(
        exclude={"routing_stats_period_s"}
    )
    chosen: dict[str, Any] = {
        "request_router_class": SpeakingFirst,
        "request_routing_stats_period_s": settings.replicas.routing_stats_period_s,
    }
    handles = {}
    for name in LAYERS:
        layer = settings.layer(name)
        gpus = _share(layer.gpus)
        deploy_layer = serve.deployment(
            name=name,
            ray_actor_options={"num_cpus": layer.num_cpus, "num_gpus": gpus},
            max_ongoing_requests=layer.max_ongoing_requests,
            autoscaling_config=_autoscaling(layer),
            request_router_config=RequestRouterConfig(**chosen),
            **replica_options,
        )
        handles[name] = deploy_layer(LayerDeployment).bind(name, values, gpus)
    deploy_ingress = serve.deployment(
        name="ingress",
        ray_actor_options={"num_cpus": settings.ingress.num_cpus},
        max_ongoing_requests=settings.ingress.max_ongoing_requests,
        max_queued_requests=settings.ingress.max_queued_requests,
        autoscaling_config=_autoscaling(settings.ingress),
        **replica_options,
    )
    return deploy_ingress(Ingress).bind(values, handles)


def build_management(args: dict[str, Any]) -> Application:
    """Build the management application for the same `args`; it raises as `build` does.

    Each deployment has one replica: the jobs live in one process, and rating a tenant's own rows
    need not be fast.
    """
    settings = read_settings(args)
    _require_auth_or_loopback(settings)
    read_trust(settings)
    values, own = settings.model_dump(mode="json"), settings.management
    replica_options: dict[str, Any] = settings.replicas.model_dump(
        exclude={"routing_stats_period_s", "max_replicas_per_node"}
    )
    deploy: dict[str, Any] = {
        "ray_actor_options": {"num_cpus": own.num_cpus},
        "num_replicas": 1,
        **replica_options,
    }
    detectors = serve.deployment(
        name="detectors", max_ongoing_requests=own.max_ongoing_requests, **deploy
    )
    manage = serve.deployment(
        name="manage",
        max_ongoing_requests=own.max_ongoing_requests,
        max_queued_requests=own.max_queued_requests,
        **deploy,
    )
    return manage(Manage).bind(values, detectors(Detectors).bind(values))


class InsecureBinding(Exception):
    """Authentication is off although other machines may reach Serve."""


def _require_auth_or_loopback(settings: Settings) -> None:
    """Allow `auth.mode: off` only if Serve is known to listen on loopback.

    With HAProxy, Serve's default is another address.
    """
    if settings.auth.mode != "off":
        return
    client = (
        _get_global_client(raise_if_no_controller_running=False) if ray.is_initialized() else None
    )
    host = client.http_config.host if client else None
    if host is None or not is_loopback(host):
        where = f"listens on {host}" if host else "does not run yet, so its address is unknown"
        raise InsecureBinding(
            f"auth.mode is off and Serve {where}: start it with `axon serve --auth off`, or "
            "make keys with `axon keys create`"
        )


def _share(gpus: float | str) -> float:
    """GPU share to schedule: the configured one, or 0 on a cluster without a GPU.

    A deployment that requests a GPU of such a cluster would wait forever.
    """
    if not gpus or not ray.is_initialized() or not ray.cluster_resources().get("GPU"):  # type: ignore[no-untyped-call]
        return 0.0
    return AUTO_SHARE if gpus == "auto" else float(gpus)


def _autoscaling(scaling: ScalingSettings) -> AutoscalingConfig:
    return AutoscalingConfig(
        min_replicas=scaling.min_replicas,
        max_replicas=scaling.max_replicas,
        target_ongoing_requests=scaling.target_ongoing_requests,
        upscale_delay_s=scaling.upscale_delay_s,
        downscale_delay_s=scaling.downscale_delay_s,
        look_back_period_s=AUTOSCALING_LOOK_BACK_S,
    )
