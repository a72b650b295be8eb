"""`axon keys`.

Who may ask, in whose name and for what. A key is shown once; who made or revoked it is in the audit
log.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import UTC, datetime

from rich.console import Console
from rich.table import Column, Table

from deployments.cli.local_store import operator
from deployments.config.settings import Settings, read_settings
from deployments.web import Key, KeyRefused, Scope, create_key, find_key, list_keys, revoke_key
from ensemble.store import Action, AuditedAction, Store, Tenant, Trust

__all__ = ["create", "revoke", "show"]

DAY_S = 86400.0


def create(
    tenant: str,
    scopes: Sequence[str],
    name: str,
    expires_days: float | None,
    *,
    out: Console,
    err: Console,
) -> None:
    """Make a key: it alone goes to standard output, what there is to know of it to standard error.

    Raises:
        MalformedEvent: `tenant` is no name of a tenant.
        KeyRefused: a scope or a name that is none, or the file cannot be written.
        ArtifactError: the key file that is there is wrong, or others may read or write it; or
            the audit log is.
    """
    settings, now = read_settings(), time.time()
    path, whose, wanted = settings.keys, Tenant(tenant), [_scope(word) for word in scopes]
    expires_at = None if expires_days is None else now + expires_days * DAY_S
    with AuditedAction(_log_of(settings), whose, Action.CREATE_KEY, "a key") as act:
        made, token = create_key(
            path,
            whose,
            wanted,
            name,
            expires_at,
            now,
            before=lambda key: act.begin(what=_what(key)),
        )
    out.file.write(f"{token}\n")  # past the console, which would break a long line
    out.file.flush()
    until = "does not expire" if made.expires_at is None else f"expires {_time(made.expires_at)}"
    for line in (
        f"key {made.id} of tenant {made.tenant}, for {', '.join(sorted(made.scopes))}; it {until}",
        "this is the only time that it is shown: keep it where secrets are kept, never in a file of the repository",
        f"its hash is in {path}; a running service knows it within seconds. Take it back: axon keys revoke {made.id}",
    ):
        err.print(line, highlight=False, markup=False, soft_wrap=True)


def show(out: Console) -> None:
    """Every key, the oldest first; never a key itself, and never its hash.

    Raises:
        ArtifactError: the key file is wrong, or others may read or write it.
    """
    keys, now = list_keys(read_settings().keys), time.time()
    if not keys:
        out.print(
            "no keys: `axon keys create --tenant NAME --scope score` makes one", highlight=False
        )
        return
    narrow = (Column("id", no_wrap=True, min_width=8), Column("state", no_wrap=True, min_width=7))
    broad = [
        Column(name, overflow="fold") for name in ("tenant", "scopes", "since", "until", "name")
    ]
    table = Table(*narrow, *broad, box=None, header_style="bold", padding=(0, 1, 0, 0))
    for key in keys:
        state, until = _state(key, now)
        table.add_row(
            key.id,
            state,
            key.tenant,
            ",".join(sorted(key.scopes)),
            _time(key.created_at),
            until,
            key.name,
        )
    out.print(table)


def revoke(key_id: str, out: Console) -> None:
    """Take a key back, for good.

    Raises:
        KeyRefused: there is no such key, or the file cannot be written.
        ArtifactError: the key file is wrong, or others may read or write it; or the audit log is.
    """
    settings = read_settings()
    known = find_key(settings.keys, key_id)
    with AuditedAction(_log_of(settings), known.tenant, Action.REVOKE_KEY, _what(known)) as act:
        act.begin()
        key = revoke_key(settings.keys, key_id, time.time())
    sentence = f"key {key.id} of tenant {key.tenant} is revoked; a running service refuses it within seconds"
    out.print(sentence, highlight=False, soft_wrap=True)


def _log_of(settings: Settings) -> Store:
    """Where the line goes.

    Whom the store trusts does not matter, so that a broken trust list keeps nobody from revoking.
    """
    return Store(settings.state, None, Trust({}, frozenset()), operator())


def _what(key: Key) -> str:
    return f"key {key.id} for {', '.join(sorted(key.scopes))}"


def _scope(word: str) -> Scope:
    try:
        return Scope(word)
    except ValueError:
        raise KeyRefused(f"a scope is one of {', '.join(Scope)}") from None


def _state(key: Key, now: float) -> tuple[str, str]:
    """A word, and the time that the key ended or will."""
    if key.revoked_at is not None:
        return "revoked", _time(key.revoked_at)
    until = "for ever" if key.expires_at is None else _time(key.expires_at)
    return "expired" if key.is_expired(now) else "[green]live[/green]", until


def _time(at: float) -> str:
    return f"{datetime.fromtimestamp(at, UTC):%Y-%m-%d %H:%M}Z"
