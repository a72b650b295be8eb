"""`axon models`, `models info` and `models versions`: the models and releases of a tenant."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Annotated, Any

import typer
from rich.console import RenderableType

from deployments.cli import console
from deployments.cli.console import Column, minutes, plain, print_json, table
from deployments.cli.local_store import chosen_tenant, own_registry
from deployments.cli.options import JsonOption, TenantOption
from deployments.cli.releases import parse_alias
from ensemble.errors import ArtifactMissing
from ensemble.store import ModelName, ReleaseListing, VisibleModel

__all__ = ["Name", "info", "list_models_and_releases", "versions"]

Name = Annotated[
    str, typer.Argument(help="Name of the model, e.g. anomaly-flow; `axon models` lists them.")
]


def list_models_and_releases(
    context: typer.Context, *, tenant: TenantOption = None, as_json: JsonOption = False
) -> None:
    """List, promote, roll back and move models.

    Without a verb: list the models that a tenant has or inherits, and its releases; mark what
    serves.
    """
    if context.invoked_subcommand is not None:
        return
    owner = chosen_tenant(tenant)
    registry = own_registry(owner)
    models, overview = registry.models(), registry.overview()
    serves = overview.pointer.ref if overview.pointer else None
    challenger = overview.challenger
    problems = {"pointer": overview.pointer_error, "challenger": overview.challenger_error}
    if as_json:
        print_json(
            {
                "tenant": owner,
                "serves": serves.serial if serves else None,
                "problem": error.code if (error := problems["pointer"]) else "",
                "challenger": challenger.serial if challenger else None,
                "challenger_problem": error.code if (error := problems["challenger"]) else "",
                "models": [_model_dict(one) for one in models],
                "releases": [_release_dict(one) for one in overview.releases],
            }
        )
        return
    for what, error in problems.items():
        if error:
            console.out.print(f"the {what} is broken: {error}", markup=False)
    if models:
        console.out.print(_models_table(models), "")
    if not overview.releases:
        console.out.print(f"tenant {owner} has no release yet; `axon train` publishes one")
        return
    marks = {serves: "[green]serves[/green]", challenger: "[yellow]challenger[/yellow]"}
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
                for one in overview.releases
            ],
        )
    )


def versions(name: Name, *, tenant: TenantOption = None, as_json: JsonOption = False) -> None:
    """List every version of one model, newest first."""
    models = own_registry(chosen_tenant(tenant)).models(ModelName(name))
    if not models:
        raise ArtifactMissing(f"model {name}")
    if as_json:
        print_json([_model_dict(one) for one in models])
    else:
        console.out.print(_models_table(models))


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
    """Describe one version of a model.

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
    found = own_registry(chosen_tenant(tenant)).describe(ModelName(name), wanted)
    known = _model_dict(found)
    if as_json:
        print_json(known)
    else:
        console.out.print(
            table(
                ["", Column("", wraps=True)],
                [[f"[bold]{key}[/bold]", plain(_in_words(value))] for key, value in known.items()],
            )
        )
    if found.info.problem:
        raise typer.Exit(1)


def _models_table(models: Sequence[VisibleModel]) -> RenderableType:
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
                f"tenant {one.tenant_id}" if is_inherited else _origin(is_shipped=one.is_shipped),
                f"{one.size_mb:.2f}",
                plain(one.metadata.model_type),
                plain(one.problem),
            ]
            for one, is_inherited in ((model.info, model.is_inherited) for model in models)
        ],
    )


def _model_dict(one: VisibleModel) -> dict[str, Any]:
    return one.info.to_dict() | {"shared": one.is_inherited}


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
