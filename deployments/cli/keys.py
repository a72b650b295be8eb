"""`axon keys`: create, list and revoke the API keys of callers; changes are audited."""

from __future__ import annotations

import time
from typing import Annotated, Any

import typer

from deployments.cli import console
from deployments.cli.console import Column, coloured, minutes, plain, print_json, table
from deployments.cli.local_store import operator
from deployments.cli.options import JsonOption
from deployments.config import Settings, read_settings
from deployments.web import Key, KeyRefused, Scope, create_key, find_key, list_keys, revoke_key
from ensemble.store import NO_TRUST, Action, AuditedAction, Store, Tenant

__all__ = ["create", "list_all", "revoke"]

DAY_S = 86400.0
COLOURS = {"live": "green"}


def create(
    *,
    tenant: Annotated[str, typer.Option(help="Tenant that the caller acts for.")],
    scope: Annotated[
        list[str],
        typer.Option(
            metavar="SCOPE",
            help="`score`: request verdicts; `read`: read models, jobs and status; `train`: start "
            "training jobs; `manage`: promote and delete models; `operate`: switch layers, for "
            "all tenants. Repeat it for more scopes.",
        ),
    ],
    name: Annotated[
        str, typer.Option(help="Name of the key for people, e.g. `collector berlin`.")
    ] = "",
    expires_days: Annotated[
        float | None,
        typer.Option(
            min=0.001, max=36500, help="Days until the key expires; default: it never does."
        ),
    ] = None,
) -> None:
    """Create an API key and print it once.

    The key alone goes to standard output, everything about it to standard error:
    `axon keys create --tenant acme --scope score > key.txt`. Axon stores only its hash.

    Give every program a key of its own with the least scopes that it needs, so that one key can be
    revoked alone. To rotate a key, create a new one, hand it out, then revoke the old one. A
    program sends it as `Authorization: Bearer KEY`.
    """
    settings, now = read_settings(), time.time()
    path, owner, scopes = settings.keys, Tenant(tenant), [_scope(text) for text in scope]
    expires_at = None if expires_days is None else now + expires_days * DAY_S
    with AuditedAction(_audit_store(settings), owner, Action.CREATE_KEY, "a key") as action:
        made, token = create_key(
            path,
            owner,
            scopes,
            name,
            expires_at,
            now,
            before=lambda key: action.begin(what=_description(key)),
        )
    console.out.file.write(f"{token}\n")  # not through Rich, which would wrap a long line
    console.out.file.flush()
    until = "does not expire" if made.expires_at is None else f"expires {minutes(made.expires_at)}"
    for line in (
        f"key {made.id} of tenant {made.tenant}, for {', '.join(sorted(made.scopes))}; it {until}",
        "the key is shown only now: store it where secrets belong, never in the repository",
        f"its hash is in {path}; a running service accepts it within seconds",
        f"to revoke it: axon keys revoke {made.id}",
    ):
        console.err.print(line, markup=False, soft_wrap=True)


def list_all(*, as_json: JsonOption = False) -> None:
    """List every API key, without its secret.

    Shows its id, tenant, scopes, name, and whether it is live, expired or revoked. Times are UTC.
    """
    keys, now = list_keys(read_settings().keys), time.time()
    if as_json:
        print_json([_to_dict(key, now) for key in keys])
        return
    if not keys:
        console.out.print("no keys: `axon keys create --tenant NAME --scope score` makes one")
        return
    console.out.print(
        table(
            [
                "id",
                "state",
                "tenant",
                Column("scopes", wraps=True),
                "created",
                "until",
                Column("name", wraps=True),
            ],
            [
                [
                    key.id,
                    coloured(_state(key, now), COLOURS.get(_state(key, now), "")),
                    plain(key.tenant),
                    " ".join(sorted(key.scopes)),
                    minutes(key.created_at),
                    minutes(_ends_at(key)) or "-",
                    plain(key.name),
                ]
                for key in keys
            ],
        )
    )


def revoke(
    key: Annotated[
        str,
        typer.Argument(
            metavar="ID",
            help="Id of the key: the 8 digits after `axon_`; `axon keys list` shows it.",
        ),
    ],
) -> None:
    """Revoke an API key permanently.

    A running service refuses it within seconds.
    """
    settings = read_settings()
    known = find_key(settings.keys, key)
    store = _audit_store(settings)
    with AuditedAction(store, known.tenant, Action.REVOKE_KEY, _description(known)) as action:
        action.begin()
        revoked = revoke_key(settings.keys, key, time.time())
    console.out.print(
        f"key {revoked.id} of tenant {revoked.tenant} is revoked; "
        "a running service refuses it within seconds",
        soft_wrap=True,
    )


def _audit_store(settings: Settings) -> Store:
    """Return the store whose audit log records the change.

    It needs no trust list, so that a key can be revoked while the trust list is broken.
    """
    return Store(settings.state, None, NO_TRUST, operator())


def _description(key: Key) -> str:
    return f"key {key.id} for {', '.join(sorted(key.scopes))}"


def _scope(text: str) -> Scope:
    try:
        return Scope(text)
    except ValueError:
        raise KeyRefused(f"a scope is one of {', '.join(Scope)}") from None


def _state(key: Key, now: float) -> str:
    if key.revoked_at is not None:
        return "revoked"
    return "expired" if key.is_expired(now) else "live"


def _ends_at(key: Key) -> float | None:
    """Return when the key was revoked or will expire; None if it never expires."""
    return key.expires_at if key.revoked_at is None else key.revoked_at


def _to_dict(key: Key, now: float) -> dict[str, Any]:
    return {
        "id": key.id,
        "state": _state(key, now),
        "tenant": key.tenant,
        "scopes": sorted(key.scopes),
        "name": key.name,
        "created_at": key.created_at,
        "expires_at": key.expires_at,
        "revoked_at": key.revoked_at,
    }
