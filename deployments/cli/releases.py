"""`axon models promote | rollback | challenger | alias`.

Which release serves, which is tried, and which version a word means.
"""

from __future__ import annotations

from collections.abc import Callable

from rich.console import Console

from deployments.cli.local_store import own_store
from deployments.config.settings import read_settings
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
    promote,
    promote_challenger,
    read_pointer,
    resolve_bundle,
    roll_back,
    set_challenger,
    set_model_alias,
)

__all__ = [
    "change_alias",
    "change_challenger",
    "parse_alias",
    "promote_release",
    "release_numbered",
    "roll_back_release",
]


def promote_release(which: str, tenant: str | None, console: Console, *, at_once: bool) -> None:
    """Point a tenant to one of its releases; an older one is a roll-back, by a new pointer. A broken pointer is replaced.

    Args:
        which: number of the release, or `challenger`.
        tenant: whose; None for the configured one.
        console: where it is told.
        at_once: the release is to take all traffic at once, not in measured steps.

    Raises:
        SigningRefused: there is no key to sign the pointer with.
        ArtifactError: there is no such release, it would not load, or another promotion came first.
        MalformedEvent: `which` is neither.
    """
    store, owner = own_store(), Tenant(tenant or read_settings().store.tenant)
    signer = read_signer(store.trust)
    if which != Alias.CHALLENGER and not which.isdecimal():
        raise MalformedEvent("release", "give the number of a release, or `challenger`")
    ref = None if which == Alias.CHALLENGER else release_numbered(store, owner, int(which))
    try:
        before = read_pointer(store, owner).serial
    except ArtifactMissing:
        before = 0
    except ArtifactError as broken:
        console.print(
            f"the pointer is broken and is replaced: {broken}", highlight=False, markup=False
        )
        before = 0
    if ref is None:
        pointer = promote_challenger(store, owner, before, signer=signer, at_once=at_once)
    else:
        pointer = promote(store, owner, ref, before, signer=signer, at_once=at_once)
    _tell(owner, pointer, console)


def roll_back_release(to: int | None, tenant: str | None, console: Console) -> None:
    """Point to an earlier release, at once; the last in use before that loads, or the one numbered `to`.

    Raises:
        SigningRefused: there is no key to sign the pointer with.
        ArtifactError: there is none to go back to, it would not load, or another promotion came
            first.
    """
    store, owner = own_store(), Tenant(tenant or read_settings().store.tenant)
    signer = read_signer(store.trust)
    _tell(
        owner,
        roll_back(store, owner, read_pointer(store, owner).serial, signer=signer, to=to),
        console,
    )


def change_challenger(
    release: int | None, tenant: str | None, console: Console, *, clear: bool
) -> None:
    """Show which release is tried in shadow; try `release`; or, with `clear`, none.

    Raises:
        SigningRefused: there is no key to sign with.
        ArtifactError: there is no such release, or it would not load.
        MalformedEvent: both a release and `clear` are given.
    """
    store, owner = own_store(), Tenant(tenant or read_settings().store.tenant)
    _refuse_both(release, clear=clear)
    if release is None and not clear:
        number = get_challenger(store, owner).number
        console.print(
            f"tenant {owner} tries release {number} in shadow"
            if number
            else f"tenant {owner} tries no release",
            highlight=False,
        )
        return
    signer, serial = (
        read_signer(store.trust),
        _serial_or_none(lambda: get_challenger(store, owner).serial, console),
    )
    if release is None:
        clear_challenger(store, owner, serial, signer=signer)
        console.print(f"tenant {owner} tries no release any more", highlight=False)
        return
    set_challenger(store, owner, release_numbered(store, owner, release), serial, signer=signer)
    console.print(
        f"tenant {owner} tries release {release} in shadow; it answers nobody", highlight=False
    )


def change_alias(
    name: str, word: str, version: int | None, tenant: str | None, console: Console, *, clear: bool
) -> None:
    """Show which version of a model has the word; give it to `version`; or, with `clear`, take it away.

    Raises:
        SigningRefused: there is no key to sign with.
        ArtifactError: there is no such version, or it does not open.
        MalformedEvent: the name or the word is none, or both a version and `clear` are given.
    """
    store, owner = own_store(), Tenant(tenant or read_settings().store.tenant)
    model, alias = ModelName(name), parse_alias(word)
    _refuse_both(version, clear=clear)
    if version is None and not clear:
        number = get_alias(store, owner, model, alias).number
        console.print(
            f"the {alias} of {model} is version {number}"
            if number
            else f"{model} has no {alias} of its own",
            highlight=False,
        )
        return
    signer = read_signer(store.trust)
    serial = _serial_or_none(lambda: get_alias(store, owner, model, alias).serial, console)
    if version is None:
        clear_model_alias(store, owner, model, alias, serial, signer=signer)
        console.print(f"{model} has no {alias} of its own any more", highlight=False)
        return
    set_model_alias(
        store,
        owner,
        model,
        alias,
        resolve_bundle(store, owner, model, version),
        serial,
        signer=signer,
    )
    console.print(f"the {alias} of {model} is version {version}", highlight=False)


def parse_alias(word: str) -> Alias:
    """The alias that `word` is.

    Raises:
        MalformedEvent: it is none.
    """
    try:
        return Alias(word)
    except ValueError:
        raise MalformedEvent("alias", "give `champion` or `challenger`") from None


def release_numbered(store: Store, tenant: Tenant, number: int) -> ReleaseRef:
    """The release of that number, with the digest of what lies there.

    Raises:
        ArtifactMissing: there is none.
    """
    known = {
        one.ref.serial: one.ref for one in reversed(list_releases(store, tenant))
    }  # of twins the one in the state folder
    if number not in known:
        raise ArtifactMissing(f"release {number} of tenant {tenant}")
    return known[number]


def _serial_or_none(look: Callable[[], int], console: Console) -> int:
    """The serial of an alias; 0 where it is broken, and is replaced."""
    try:
        return look()
    except ArtifactError as broken:
        console.print(
            f"the alias is broken and is replaced: {broken}", highlight=False, markup=False
        )
        return 0


def _refuse_both(number: int | None, *, clear: bool) -> None:
    if number is not None and clear:
        raise MalformedEvent("--clear", "give a number or --clear, not both")


def _tell(tenant: Tenant, pointer: Pointer, console: Console) -> None:
    console.print(
        f"tenant {tenant} points to release {pointer.release} (pointer {pointer.serial}); a running service follows within seconds",
        highlight=False,
    )
