"""`axon models`, `models info` and `models versions`: the models and releases of a tenant."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import Annotated, Any

import typer
from rich.console import RenderableType

from deployments.cli import console
from deployments.cli.console import Column, minutes, plain, print_json, table
from deployments.cli.local_store import chosen_tenant, own_store
from deployments.cli.options import JsonOption, TenantOption
from deployments.cli.releases import parse_alias
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

__all__ = ["Name", "info", "list_models_and_releases", "versions"]

Name = Annotated[
    str, typer.Argument(help="Name of the model, e.g. anomaly-flow; `axon models` lists them.")
]


def list_models_and_releases(
    context: typer.Context, *, tenant: TenantOption = None, as_json: JsonOption = False
) -> None:
    """List, promote, roll back and move models.

    Without a verb: list the models and the releases of a tenant, and mark what serves.
    """
    if context.invoked_subcommand is not None:
        return
    store, owner = own_store(), chosen_tenant(tenant)
    infos, releases = list_models(store, owner), list_releases(store, owner)
    serves, shadow = _current(store, owner), read_challenger(store, owner)
    if as_json:
        print_json(
            {
                "tenant": owner,
                "serves": serves.serial if serves else None,
                "challenger": shadow.serial if shadow else None,
                "models": [one.to_dict() for one in infos],
                "releases": [_release_dict(one) for one in releases],
            }
        )
        return
    if not infos and not releases:
        console.out.print(f"tenant {owner} has no release yet; `axon train` publishes one")
        return
    if infos:
        console.out.print(_models_table(infos), "")
    marks = {serves: "[green]serves[/green]", shadow: "[yellow]challenger[/yellow]"}
    console.out.print(
        table(
            ["release", "", "created", "from", Column("notes", wraps=True)],
            [
                [
                    str(one.ref.serial),
                    marks.get(one.ref, ""),
                    minutes(one.created_at),
                    _origin(is_shipped=one.is_shipped),
                    plain(one.problem or one.notes),
                ]
                for one in releases
            ],
        )
    )


def versions(name: Name, *, tenant: TenantOption = None, as_json: JsonOption = False) -> None:
    """List every version of one model, newest first."""
    infos = list_models(own_store(), chosen_tenant(tenant), ModelName(name))
    if not infos:
        raise ArtifactMissing(f"model {name}")
    if as_json:
        print_json([one.to_dict() for one in infos])
    else:
        console.out.print(_models_table(infos))


def info(
    name: Name,
    *,
    version: Annotated[
        str | None,
        typer.Option(
            help="Number, `champion` or `challenger`; default: the champion, else the newest."
        ),
    ] = None,
    tenant: TenantOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show all that is known of one model version.

    Its type, parameters, hashes and training data, and what refers to it. Exit code 1: it is
    broken.
    """
    wanted = (
        version
        if version is None
        else int(version)
        if version.isdecimal()
        else parse_alias(version)
    )
    found = describe_bundle(own_store(), chosen_tenant(tenant), ModelName(name), wanted)
    known = found.to_dict()
    if as_json:
        print_json(known)
    else:
        console.out.print(
            table(
                ["", Column("", wraps=True)],
                [[f"[bold]{key}[/bold]", plain(_in_words(value))] for key, value in known.items()],
            )
        )
    if found.problem:
        raise typer.Exit(1)


def _models_table(infos: Iterable[BundleInfo]) -> RenderableType:
    return table(
        [
            "model",
            "version",
            "",
            "created",
            "from",
            Column("MB", optional=True),
            Column("type", wraps=True, optional=True),
            Column("problem", wraps=True),
        ],
        [
            [
                one.model_name,
                str(one.version),
                "[green]serves[/green]" if one.why_in_use == "it serves" else " ".join(one.aliases),
                minutes(one.created_at),
                _origin(is_shipped=one.is_shipped),
                f"{one.size_mb:.2f}",
                plain(one.metadata.model_type),
                plain(one.problem),
            ]
            for one in infos
        ],
    )


def _current(store: Store, tenant: Tenant) -> ReleaseRef | None:
    try:
        return read_pointer(store, tenant).ref
    except ArtifactMissing:
        return None


def _release_dict(one: ReleaseListing) -> dict[str, Any]:
    known = {key: value for key, value in asdict(one).items() if key != "ref"}
    return {"release": one.ref.serial, "sha256": one.ref.sha256} | known


def _in_words(value: object) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key}: {_in_words(inner)}" for key, inner in value.items())
    if isinstance(value, list):
        return ", ".join(map(_in_words, value))
    return str(value)


def _origin(*, is_shipped: bool) -> str:
    return "shipped" if is_shipped else "own"
