"""`axon status` and `axon layers`: the state of a running service, and its layer switches."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import httpx
import typer

from deployments.cli import console
from deployments.cli.client import key_header, key_hint
from deployments.cli.console import Column, coloured, minutes, plain, print_json, table
from deployments.cli.errors import CommandFailed
from deployments.cli.options import SERVICE, JsonOption, Url

__all__ = ["check_layer", "disable", "enable", "list_layers", "reset", "status"]

RESPONSE_WITHIN_S = 5.0
CHECK_WITHIN_S = 60.0  # a load check loads models; the service itself stops it earlier
COLOURS = {
    "live": "green",
    "last_good": "yellow",
    "rules": "yellow",
    "FULLY_OPERATIONAL": "green",
    "PARTIALLY_OPERATIONAL": "yellow",
    "closed": "green",
}
BAD = "red"
Layer = Annotated[
    str, typer.Argument(help="Name of the layer, e.g. behavior; `axon layers` lists them.")
]


def status(*, url: Url = SERVICE, as_json: JsonOption = False) -> None:
    """Show the state of a running service.

    Exit code 0: every layer contributes; 1: degraded; 2: no response.
    """
    found = _request("GET", url, "/v1/status")
    if as_json:
        print_json(found)
    else:
        _print_summary(found)
        _print_layers(found["layers"])
    if found["status"] != "healthy":
        raise typer.Exit(1)


def list_layers(context: typer.Context, *, url: Url = SERVICE, as_json: JsonOption = False) -> None:
    """List and switch the layers of a running service.

    Without a verb: list the layers, whether each is enabled and whether its model is loaded.
    """
    if context.invoked_subcommand is not None:
        return
    found = _request("GET", url, "/v1/layers")
    if as_json:
        print_json(found)
        return
    console.out.print(
        table(
            [
                "layer",
                "enabled",
                "model loaded",
                "status",
                Column("version", wraps=True),
                Column("reason", wraps=True),
            ],
            [
                [
                    plain(one["layer"]),
                    _yes_or_no(one["enabled"]),
                    _yes_or_no(one["model_loaded"]),
                    _coloured(one["status"]),
                    plain(one["version"] or "-"),
                    plain(one["reason"] or "-"),
                ]
                for one in found["layers"]
            ],
        )
    )


def disable(layer: Layer, *, url: Url = SERVICE, as_json: JsonOption = False) -> None:
    """Disable a layer at once.

    It stays disabled over restarts. It is not called and has no weight until it is enabled.
    """
    _switch(url, layer, "disable", as_json=as_json)


def enable(layer: Layer, *, url: Url = SERVICE, as_json: JsonOption = False) -> None:
    """Enable a layer again, without a restart."""
    _switch(url, layer, "enable", as_json=as_json)


def reset(layer: Layer, *, url: Url = SERVICE, as_json: JsonOption = False) -> None:
    """Clear the failures of a layer.

    Its circuit breaker closes and its backoff starts again from the beginning.
    """
    _switch(url, layer, "reset", as_json=as_json)


def check_layer(layer: Layer, *, url: Url = SERVICE, as_json: JsonOption = False) -> None:
    """Load the models of a layer as a test.

    They are loaded beside those that serve, checked and discarded. Exit code 1: one failed.
    """
    done = _request("POST", url, f"/v1/layers/{_in_path(layer)}/test", within_s=CHECK_WITHIN_S)
    if as_json:
        print_json(done)
    else:
        for kind, check in done["kinds"].items():
            outcome = "[green]ok[/green]" if check["ok"] else "[red]failed[/red]"
            rest = f"{check['code']} {check['message']}".strip()
            console.out.print(
                f"{plain(layer)} {plain(kind)}: {outcome} version {plain(check['version'] or '-')} "
                f"{check['elapsed_ms']:.0f} ms {plain(rest)}"
            )
        if done["code"]:
            console.out.print(
                f"{plain(layer)}: [red]failed[/red] {plain(done['code'])} {plain(done['message'])}"
            )
    if not done["ok"]:
        raise typer.Exit(1)


def _switch(url: str, layer: str, switch: str, *, as_json: bool) -> None:
    done = _request("POST", url, f"/v1/layers/{_in_path(layer)}/{switch}")
    if as_json:
        print_json(done)
        return
    console.out.print(
        f"{plain(layer)} is {'enabled' if done['enabled'] else 'disabled'}, also after a restart"
    )
    if switch == "reset":
        console.out.print("its circuit breaker is closed and its backoff starts again")
    if done["disabled_by_environment"]:
        console.out.print(
            "AXON_DISABLED_LAYERS or a config file names it: it stays disabled until the service "
            "starts without that"
        )


def _print_summary(found: Mapping[str, Any]) -> None:
    coverage = ", ".join(f"{kind} {share:.0%}" for kind, share in found["coverage_by_kind"].items())
    console.out.print(f"{_coloured(found['ml_status'])}  coverage: {plain(coverage)}")
    console.out.print(
        f"release {plain(found['release'] or 'none')}, tenant {plain(found['tenant'])}, "
        f"up {found['uptime_s']:.0f} s"
    )
    rollout = found["rollout"]
    if rollout:
        console.out.print(
            plain(
                f"rollout of {rollout['release']}: {rollout['state']}, "
                f"{rollout['share']:.0%} of traffic {rollout['reason'] or ''}"
            )
        )
    controls = found["controls"]
    if controls["disabled"]:
        console.out.print(f"[red]disabled[/red]: {plain(', '.join(controls['disabled']))}")
    for pointer, reason in controls["rolled_back"].items():
        console.out.print(f"[red]rolled back[/red] from {plain(pointer)}: {plain(reason)}")


def _print_layers(layers: list[dict[str, Any]]) -> None:
    kinds = [
        (layer, kind, state, state["problem"] or {})
        for layer in layers
        for kind, state in layer["kinds"].items()
    ]
    console.out.print(
        table(
            [
                "layer",
                "kind",
                "status",
                Column("version", wraps=True),
                Column("reason", wraps=True),
                Column("cause", wraps=True),
                Column("breaker", optional=True),
                Column("since", optional=True),
            ],
            [
                [
                    plain(layer["layer"]),
                    plain(kind),
                    _coloured(state["status"]),
                    plain(state["version"] or "-"),
                    plain(state["reason"] or problem.get("code", "")),
                    plain(problem.get("cause", "")),
                    _coloured(layer["breaker"]["state"]),
                    minutes(state["since"]),
                ]
                for layer, kind, state, problem in kinds
            ],
        )
    )
    for code, meaning in {
        problem["code"]: problem["meaning"] for _, _, _, problem in kinds if problem
    }.items():
        console.out.print(f"{plain(code)}: {plain(meaning)} What to do: configs/RUNBOOK.md")


def _request(
    method: str, url: str, path: str, *, within_s: float = RESPONSE_WITHIN_S
) -> dict[str, Any]:
    """Send a request to the service and return the body of its response.

    Raises:
        CommandFailed: no response, a response that is not Axon's, or an error.
    """
    try:
        response = httpx.request(
            method, url.rstrip("/") + path, timeout=within_s, headers=key_header()
        )
        body: dict[str, Any] = response.json()
        if response.is_success:
            return body
        error = body["error"]
        problem = f"{error['code']}: {error['message']}{key_hint(response.status_code)}"
    except (httpx.HTTPError, httpx.InvalidURL):
        raise CommandFailed(
            f"no service answers at {url}; start one with `axon serve`, or name another with --url"
        ) from None
    except (ValueError, LookupError, TypeError, AttributeError):
        raise CommandFailed(f"what answers at {url} is no Axon") from None
    raise CommandFailed(problem)


def _in_path(layer: str) -> str:
    return "".join(letter if letter.isalnum() or letter in "-_" else "-" for letter in layer)


def _coloured(text: str) -> str:
    return coloured(text, COLOURS.get(text, BAD))


def _yes_or_no(value: object) -> str:
    return "yes" if value else "[red]no[/red]"
