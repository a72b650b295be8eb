"""`axon models promote`, `rollback`, `challenger` and `alias`: the choice of what serves."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import typer

from deployments.cli import console
from deployments.cli.console import print_json
from deployments.cli.local_store import chosen_tenant, own_registry
from deployments.cli.options import JsonOption, TenantOption
from ensemble.errors import ArtifactError, MalformedEvent
from ensemble.store import Alias, AliasTarget, ModelName, Pointer, Tenant

__all__ = ["alias", "challenger", "parse_alias", "promote", "rollback"]


def promote(
    release: Annotated[
        str,
        typer.Argument(
            help="Number of the release, or `challenger`; an older number rolls back to it."
        ),
    ],
    *,
    tenant: TenantOption = None,
    at_once: Annotated[
        bool,
        typer.Option("--at-once", help="Give the release all traffic at once, without a canary."),
    ] = False,
) -> None:
    """Point a tenant to one of its releases, after a load check.

    A running service follows within seconds, by a canary rollout. A release that is promoted is no
    longer the challenger. A broken pointer is replaced.
    """
    if release != Alias.CHALLENGER and not release.isdecimal():
        raise MalformedEvent("release", "give the number of a release, or `challenger`")
    owner = chosen_tenant(tenant)
    registry = own_registry(owner)
    if broken := registry.overview().pointer_error:
        console.out.print(f"the pointer is broken and is replaced: {broken}", markup=False)
    pointer = registry.promote(
        int(release) if release.isdecimal() else Alias.CHALLENGER, at_once=at_once
    )
    _report(owner, pointer)


def rollback(
    *,
    to: Annotated[
        int | None,
        typer.Option(
            min=1, help="Number of an earlier release; default: the last one in use that loads."
        ),
    ] = None,
    tenant: TenantOption = None,
) -> None:
    """Point a tenant back to an earlier release, at once.

    Each further rollback goes one release further back; the last five in use can be reached.
    """
    owner = chosen_tenant(tenant)
    _report(owner, own_registry(owner).roll_back(to))


def challenger(
    release: Annotated[
        int | None,
        typer.Argument(
            min=1, help="Number of the release; without it, show the current challenger."
        ),
    ] = None,
    *,
    clear: Annotated[bool, typer.Option("--clear", help="Clear the challenger.")] = False,
    tenant: TenantOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show, set or clear the release that is scored in shadow.

    The challenger scores the same events as the release that serves; callers never get its
    verdicts.
    """
    owner = chosen_tenant(tenant)
    _reject_both(release, clear=clear)
    if release is None and not clear:
        number = own_registry(owner).challenger().number or None
        if as_json:
            print_json({"tenant": owner, "challenger": number})
        elif number:
            console.out.print(f"the challenger of tenant {owner} is release {number}")
        else:
            console.out.print(f"tenant {owner} has no challenger")
        return
    registry = own_registry(owner)
    _warn_if_broken(registry.challenger)
    registry.set_challenger(release)
    if release is None:
        console.out.print(f"tenant {owner} has no challenger any more")
        return
    console.out.print(
        f"the challenger of tenant {owner} is release {release}; it is scored in shadow"
    )


def alias(
    name: Annotated[
        str, typer.Argument(help="Name of the model, e.g. anomaly-flow; `axon models` lists them.")
    ],
    alias: Annotated[str, typer.Argument(help="`champion` or `challenger`.")],
    *,
    version: Annotated[
        int | None,
        typer.Option(min=1, help="Version that gets the alias; without it, show the current one."),
    ] = None,
    clear: Annotated[bool, typer.Option("--clear", help="Remove the alias.")] = False,
    tenant: TenantOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show, set or clear the champion or challenger of a model.

    For models that serve outside releases, such as tabular detectors.
    """
    owner = chosen_tenant(tenant)
    model, which = ModelName(name), parse_alias(alias)
    _reject_both(version, clear=clear)
    if version is None and not clear:
        number = own_registry(owner).alias(model, which).number or None
        if as_json:
            print_json({"tenant": owner, "model": model, "alias": which, "version": number})
        elif number:
            console.out.print(f"the {which} of {model} is version {number}")
        else:
            console.out.print(f"{model} has no {which} of its own")
        return
    registry = own_registry(owner)
    _warn_if_broken(lambda: registry.alias(model, which))
    registry.set_alias(model, which, version)
    if version is None:
        console.out.print(f"{model} has no {which} of its own any more")
        return
    console.out.print(f"the {which} of {model} is version {version}")


def parse_alias(text: str) -> Alias:
    """Parse the name of an alias.

    Raises:
        MalformedEvent: there is no such alias.
    """
    try:
        return Alias(text)
    except ValueError:
        raise MalformedEvent("alias", "give `champion` or `challenger`") from None


def _warn_if_broken(read: Callable[[], AliasTarget]) -> None:
    try:
        read()
    except ArtifactError as broken:
        console.out.print(f"the alias is broken and is replaced: {broken}", markup=False)


def _reject_both(number: int | None, *, clear: bool) -> None:
    if number is not None and clear:
        raise MalformedEvent("--clear", "give a number or --clear, not both")


def _report(tenant: Tenant, pointer: Pointer) -> None:
    console.out.print(
        f"tenant {tenant} points to release {pointer.release} (pointer {pointer.serial}); "
        "a running service follows within seconds"
    )
