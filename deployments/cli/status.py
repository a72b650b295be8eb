"""`axon status` and `axon layers`.

How a running service stands, and the switches of its layers, in a terminal.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import httpx
import msgspec
from rich.console import Console
from rich.table import Table

from deployments.cli.client import key_header, where_keys_come_from
from deployments.cli.local_store import plain

__all__ = ["ServiceFailed", "show_layers", "show_status", "switch_layer", "try_layer"]

ANSWER_WITHIN_S = 5.0
TEST_WITHIN_S = 60.0  # a test loads a model; the service itself gives it up before
COLOURS = {
    "live": "green",
    "last_good": "yellow",
    "rules": "yellow",
    "FULLY_OPERATIONAL": "green",
    "PARTIALLY_OPERATIONAL": "yellow",
    "closed": "green",
}
BAD = "red"


class ServiceFailed(Exception):
    """The service did not answer, or refused; the sentence says which."""


def show_status(url: str, *, as_json: bool, console: Console) -> bool:
    """Print how the service stands.

    Returns:
        Whether all of it speaks.

    Raises:
        ServiceFailed: no answer.
    """
    status = _asked("GET", url, "/v1/status")
    if as_json:
        console.file.write(
            msgspec.json.format(msgspec.json.encode(status), indent=2).decode() + "\n"
        )
        return bool(status["status"] == "healthy")
    _tell_whole(status, console)
    layers = Table(
        "layer",
        "kind",
        "status",
        "version",
        "since",
        "reason",
        "cause",
        "breaker",
        box=None,
        header_style="bold",
    )
    for layer in status["layers"]:
        for kind, state in layer["kinds"].items():
            problem = state["problem"] or {}
            why = state["reason"] or problem.get("code", "")
            layers.add_row(
                plain(layer["layer"]),
                plain(kind),
                _coloured(state["status"]),
                plain(state["version"] or "-"),
                plain(state["since"] or "-"),
                plain(why or "-"),
                plain(problem.get("cause", "") or "-"),
                _coloured(layer["breaker"]["state"]),
            )
    console.print(layers)
    meanings = {
        t["code"]: t["meaning"]
        for layer in status["layers"]
        for s in layer["kinds"].values()
        if (t := s["problem"])
    }
    for code, meaning in meanings.items():
        console.print(
            f"{plain(code)}: {plain(meaning)} What to do: configs/RUNBOOK.md", highlight=False
        )
    return bool(status["status"] == "healthy")


def show_layers(url: str, console: Console) -> None:
    """Print each layer in a line."""
    layers = Table(
        "layer",
        "enabled",
        "model loaded",
        "status",
        "version",
        "reason",
        box=None,
        header_style="bold",
    )
    for layer in _asked("GET", url, "/v1/layers")["layers"]:
        enabled, loaded = (
            "yes" if layer[name] else "[red]no[/red]" for name in ("enabled", "model_loaded")
        )
        version, reason = plain(layer["version"] or "-"), plain(layer["reason"] or "-")
        layers.add_row(
            plain(layer["layer"]), enabled, loaded, _coloured(layer["status"]), version, reason
        )
    console.print(layers)


def switch_layer(url: str, layer: str, switch: str, console: Console) -> None:
    """Disable, enable or reset a layer, and say how it stands then.

    Raises:
        ServiceFailed: no answer, no such layer, or the switch could not be kept.
    """
    done = _asked("POST", url, f"/v1/layers/{_in_path(layer)}/{switch}")
    console.print(
        f"{plain(layer)} is {'enabled' if done['enabled'] else 'disabled'}; kept over restarts",
        highlight=False,
    )
    if switch == "reset":
        console.print("its breaker and its backoff begin anew", highlight=False)
    if done["disabled_by_environment"]:
        console.print(
            "AXON_DISABLED_LAYERS or a config file names it: it stays off until the service starts without that",
            highlight=False,
        )


def try_layer(url: str, layer: str, console: Console) -> bool:
    """Test a layer's initialisation and print the outcome.

    Returns:
        Whether every kind of event has a model that would serve.
    """
    done = _asked("POST", url, f"/v1/layers/{_in_path(layer)}/test", within_s=TEST_WITHIN_S)
    for kind, trial in done["kinds"].items():
        word = "[green]ok[/green]" if trial["ok"] else "[red]failed[/red]"
        rest = f"{trial['code']} {trial['message']}".strip()
        console.print(
            f"{plain(layer)} {plain(kind)}: {word} version {plain(trial['version'] or '-')} {trial['elapsed_ms']:.0f} ms {plain(rest)}"
        )
    if done["code"]:
        console.print(
            f"{plain(layer)}: [red]failed[/red] {plain(done['code'])} {plain(done['message'])}"
        )
    return bool(done["ok"])


def _tell_whole(status: Mapping[str, Any], console: Console) -> None:
    coverage = ", ".join(
        f"{kind} {share:.0%}" for kind, share in status["coverage_by_kind"].items()
    )
    console.print(f"{_coloured(status['ml_status'])}  coverage: {plain(coverage)}", highlight=False)
    console.print(
        f"release {plain(status['release'] or 'none')}, tenant {plain(status['tenant'])}, up {status['uptime_s']:.0f} s",
        highlight=False,
    )
    rollout = status["rollout"]
    if rollout:
        sentence = f"rollout of {rollout['release']}: {rollout['state']}, {rollout['share']:.0%} of traffic {rollout['reason'] or ''}"
        console.print(plain(sentence), highlight=False)
    controls = status["controls"]
    if controls["disabled"]:
        console.print(
            f"[red]disabled[/red]: {plain(', '.join(controls['disabled']))}", highlight=False
        )
    for pointer, reason in controls["rolled_back"].items():
        console.print(f"[red]rolled back[/red] {plain(pointer)}: {plain(reason)}", highlight=False)


def _asked(
    method: str, url: str, path: str, *, within_s: float = ANSWER_WITHIN_S
) -> dict[str, Any]:
    try:
        answer = httpx.request(
            method, url.rstrip("/") + path, timeout=within_s, headers=key_header()
        )
        body: dict[str, Any] = answer.json()
        if answer.is_success:
            return body
        problem = f"{body['error']['code']}: {body['error']['message']}{where_keys_come_from(answer.status_code)}"
    except (httpx.HTTPError, httpx.InvalidURL):
        raise ServiceFailed(
            f"no service answers at {url}; start one with `axon serve`, or name another with --url"
        ) from None
    except (ValueError, LookupError, TypeError, AttributeError):
        raise ServiceFailed(f"what answers at {url} is no Axon") from None
    raise ServiceFailed(problem)


def _in_path(layer: str) -> str:
    return "".join(letter if letter.isalnum() or letter in "-_" else "-" for letter in layer)


def _coloured(word: str) -> str:
    return f"[{COLOURS.get(word, BAD)}]{plain(word)}[/]"
