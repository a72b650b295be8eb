"""`axon models`, `info` and `versions`.

What the store holds, what serves, and all that is known of one version.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.table import Table

from deployments.cli.local_store import own_store, plain
from deployments.cli.releases import parse_alias
from deployments.config.settings import read_settings
from ensemble.errors import ArtifactMissing
from ensemble.store import (
    BundleInfo,
    ModelName,
    ReleaseListing,
    ReleaseRef,
    Store,
    Tenant,
    describe_bundle,
    list_models,
    list_releases,
    read_challenger,
    read_pointer,
)

__all__ = ["show_info", "show_models", "show_versions"]


def show_models(tenant: str | None, console: Console, *, as_json: bool) -> None:
    """Bundles and releases of a tenant; what serves is marked.

    Raises:
        ArtifactError: the pointer or the challenger is broken.
    """
    store, owner = own_store(), Tenant(tenant or read_settings().store.tenant)
    infos, releases = list_models(store, owner), list_releases(store, owner)
    serves, tried = _current(store, owner), read_challenger(store, owner)
    if as_json:
        told = {
            "tenant": owner,
            "serves": serves.serial if serves else None,
            "challenger": tried.serial if tried else None,
            "models": [info.to_dict() for info in infos],
            "releases": [_release_dict(one) for one in releases],
        }
        console.print_json(json.dumps(told))
        return
    if not infos and not releases:
        console.print(
            f"tenant {owner} has no release yet; `axon train` publishes one", highlight=False
        )
        return
    if infos:
        console.print(_table_of(infos))
    table = Table("", "release", "created", "from", "notes", box=None, header_style="bold")
    for one in releases:
        mark = (
            "[green]serves[/green]"
            if one.ref == serves
            else "[yellow]tried[/yellow]"
            if one.ref == tried
            else ""
        )
        table.add_row(
            mark,
            str(one.ref.serial),
            one.created_at,
            _from(is_shipped=one.is_shipped),
            plain(one.problem or one.notes),
        )
    console.print(table)


def show_versions(name: str, tenant: str | None, console: Console, *, as_json: bool) -> None:
    """Every version of one model, the newest first.

    Raises:
        ArtifactMissing: there is no such model.
    """
    store, owner = own_store(), Tenant(tenant or read_settings().store.tenant)
    infos = list_models(store, owner, ModelName(name))
    if not infos:
        raise ArtifactMissing(f"model {name}")
    if as_json:
        console.print_json(json.dumps([info.to_dict() for info in infos]))
    else:
        console.print(_table_of(infos))


def show_info(
    name: str, which: str | None, tenant: str | None, console: Console, *, as_json: bool
) -> bool:
    """All that is known of one version.

    Args:
        name: of the model.
        which: number or alias; None for the champion, or the newest where there is none.
        tenant: whose; None for the configured one.
        console: where it is told.
        as_json: for programs.

    Returns:
        Whether nothing is known to be wrong with it.

    Raises:
        ArtifactError: there is none, or an alias is broken.
    """
    store, owner = own_store(), Tenant(tenant or read_settings().store.tenant)
    wanted = (
        int(which)
        if which is not None and which.isdecimal()
        else parse_alias(which)
        if which is not None
        else None
    )
    info = describe_bundle(store, owner, ModelName(name), wanted)
    if as_json:
        console.print_json(json.dumps(info.to_dict()))
        return not info.problem
    table = Table(show_header=False, box=None)
    for key, value in info.to_dict().items():
        table.add_row(f"[bold]{key}[/bold]", plain(_in_words(value)))
    console.print(table)
    return not info.problem


def _table_of(infos: Iterable[BundleInfo]) -> Table:
    table = Table(
        "", "model", "version", "MB", "created", "from", "type", "", box=None, header_style="bold"
    )
    for info in infos:
        mark = "[green]serves[/green]" if info.why_in_use == "it serves" else " ".join(info.aliases)
        created, source = info.created_at, _from(is_shipped=info.is_shipped)
        kind = plain(info.metadata.model_type)
        table.add_row(
            mark,
            info.model_name,
            str(info.version),
            f"{info.size_mb:.2f}",
            created,
            source,
            kind,
            plain(info.problem),
        )
    return table


def _current(store: Store, tenant: Tenant) -> ReleaseRef | None:
    try:
        return read_pointer(store, tenant).ref
    except ArtifactMissing:
        return None


def _release_dict(one: ReleaseListing) -> dict[str, Any]:
    said = {key: value for key, value in asdict(one).items() if key != "ref"}
    return {"release": one.ref.serial, "sha256": one.ref.sha256} | said


def _in_words(value: object) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key}: {_in_words(inner)}" for key, inner in value.items())
    if isinstance(value, list):
        return ", ".join(map(_in_words, value))
    return str(value)


def _from(*, is_shipped: bool) -> str:
    return "shipped" if is_shipped else "own"
