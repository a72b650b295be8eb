"""`axon models promote`, `rollback`, `challenger` and `alias`: what serves, and in shadow."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import typer

from deployments.cli import console
from deployments.cli.console import print_json
from deployments.cli.local_store import chosen_tenant, own_store
from deployments.cli.options import JsonOption, TenantOption
from deployments.config.trust import read_signer
from ensemble.errors import ArtifactError, ArtifactMissing, MalformedEvent
from ensemble.store import (
    Alias,
    ModelName,
    Pointer,
    ReleaseRef,
    Store,
    Tenant,
    clear_challenger,
    clear_model_alias,
    get_alias,
    get_challenger,
    list_releases,
    promote_challenger,
    read_pointer,
    resolve_bundle,
    roll_back,
    set_challenger,
    set_model_alias,
)
from ensemble.store import promote as point_to

__all__ = ["alias", "challenger", "find_release", "parse_alias", "promote", "rollback"]


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
    store, owner = own_store(), chosen_tenant(tenant)
    signer = read_signer(store.trust)
    if release != Alias.CHALLENGER and not release.isdecimal():
        raise MalformedEvent("release", "give the number of a release, or `challenger`")
    ref = None if release == Alias.CHALLENGER else find_release(store, owner, int(release))
    try:
        before = read_pointer(store, owner).serial
    except ArtifactMissing:
        before = 0
    except ArtifactError as broken:
        console.out.print(f"the pointer is broken and is replaced: {broken}", markup=False)
        before = 0
    if ref is None:
        pointer = promote_challenger(store, owner, before, signer=signer, at_once=at_once)
    else:
        pointer = point_to(store, owner, ref, before, signer=signer, at_once=at_once)
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
    """Point a tenant back to an earlier release, all traffic at once.

    Each further rollback goes one release further back; the last five in use can be reached.
    """
    store, owner = own_store(), chosen_tenant(tenant)
    signer = read_signer(store.trust)
    serial = read_pointer(store, owner).serial
    _report(owner, roll_back(store, owner, serial, signer=signer, to=to))


def challenger(
    release: Annotated[
        int | None,
        typer.Argument(
            min=1, help="Number of the release; without it, show the current challenger."
        ),
    ] = None,
    *,
    clear: Annotated[bool, typer.Option("--clear", help="Have no challenger any more.")] = False,
    tenant: TenantOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show, set or clear the release that is scored in shadow.

    The challenger scores the same events as the release that serves; callers never get its
    verdicts.
    """
    store, owner = own_store(), chosen_tenant(tenant)
    _reject_both(release, clear=clear)
    if release is None and not clear:
        number = get_challenger(store, owner).number or None
        if as_json:
            print_json({"tenant": owner, "challenger": number})
        elif number:
            console.out.print(f"the challenger of tenant {owner} is release {number}")
        else:
            console.out.print(f"tenant {owner} has no challenger")
        return
    signer = read_signer(store.trust)
    serial = _serial_or_none(lambda: get_challenger(store, owner).serial)
    if release is None:
        clear_challenger(store, owner, serial, signer=signer)
        console.out.print(f"tenant {owner} has no challenger any more")
        return
    set_challenger(store, owner, find_release(store, owner, release), serial, signer=signer)
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

    For models that no release names, such as tabular detectors.
    """
    store, owner = own_store(), chosen_tenant(tenant)
    model, which = ModelName(name), parse_alias(alias)
    _reject_both(version, clear=clear)
    if version is None and not clear:
        number = get_alias(store, owner, model, which).number or None
        if as_json:
            print_json({"tenant": owner, "model": model, "alias": which, "version": number})
        elif number:
            console.out.print(f"the {which} of {model} is version {number}")
        else:
            console.out.print(f"{model} has no {which} of its own")
        return
    signer = read_signer(store.trust)
    serial = _serial_or_none(lambda: get_alias(store, owner, model, which).serial)
    if version is None:
        clear_model_alias(store, owner, model, which, serial, signer=signer)
        console.out.print(f"{model} has no {which} of its own any more")
        return
    ref = resolve_bundle(store, owner, model, version)
    set_model_alias(store, owner, model, which, ref, serial, signer=signer)
    console.out.print(f"the {which} of {model} is version {version}")


def parse_alias(text: str) -> Alias:
    """Parse an alias.

    Raises:
        MalformedEvent: it is none.
    """
    try:
        return Alias(text)
    except ValueError:
        raise MalformedEvent("alias", "give `champion` or `challenger`") from None


def find_release(store: Store, tenant: Tenant, number: int) -> ReleaseRef:
    """The release of that number, with the digest of its file.

    Raises:
        ArtifactMissing: there is none.
    """
    known = {
        one.ref.serial: one.ref for one in reversed(list_releases(store, tenant))
    }  # of two with one number the one in the state folder
    if number not in known:
        raise ArtifactMissing(f"release {number} of tenant {tenant}")
    return known[number]


def _serial_or_none(read: Callable[[], int]) -> int:
    """The serial of an alias; 0 where it is broken, so that it is replaced."""
    try:
        return read()
    except ArtifactError as broken:
        console.out.print(f"the alias is broken and is replaced: {broken}", markup=False)
        return 0


def _reject_both(number: int | None, *, clear: bool) -> None:
    if number is not None and clear:
        raise MalformedEvent("--clear", "give a number or --clear, not both")


def _report(tenant: Tenant, pointer: Pointer) -> None:
    console.out.print(
        f"tenant {tenant} points to release {pointer.release} (pointer {pointer.serial}); "
        "a running service follows within seconds"
    )
