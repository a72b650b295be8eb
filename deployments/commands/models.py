"""`axon models`: what the store holds, what serves, and which release to point to."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from deployments.commands.local import own_store
from deployments.settings import read_settings
from deployments.trust import read_signer
from ensemble.errors import ArtifactError, ArtifactMissing
from ensemble.store.names import ReleaseRef, Tenant
from ensemble.store.release import list_bundles, list_releases, promote, read_pointer, read_release

__all__ = ["promote_release", "show_models"]


def show_models(tenant: str | None, console: Console) -> None:
    """Bundles and releases of a tenant; what serves is marked."""
    store, owner = own_store(), Tenant(tenant or read_settings().store.tenant)
    try:
        pointer = read_pointer(store, owner)
        serving = read_release(store, owner, pointer)
    except ArtifactMissing:
        console.print(f"tenant {owner} has no release yet; `axon train` publishes one", highlight=False)
        return
    used = {(ref.model, ref.version) for ref in serving.bundles.values()}
    bundles = Table("", "model", "version", "MB", "created", "from", box=None, header_style="bold")
    for line in list_bundles(store, owner):
        mark = "[green]serves[/green]" if (line.ref.model, line.ref.version) in used else ""
        size = f"{line.size_bytes / 1e6:.2f}"
        bundles.add_row(mark, line.ref.model, str(line.ref.version), size, line.created_at, "shipped" if line.is_shipped else "own")
    console.print(bundles)
    releases = Table("", "release", "created", "from", "notes", box=None, header_style="bold")
    for one in list_releases(store, owner):
        mark = "[green]serves[/green]" if one.ref.serial == pointer.release else ""
        releases.add_row(mark, str(one.ref.serial), one.created_at, "shipped" if one.is_shipped else "own", one.problem or one.notes)
    console.print(releases)


def promote_release(serial: int, tenant: str | None, console: Console, *, at_once: bool) -> None:
    """Point a tenant to one of its releases; an older one is a roll-back, by a new pointer. A broken pointer is replaced.

    Args:
        serial: of the release.
        tenant: whose; None for the configured one.
        console: where it is told.
        at_once: the release is to take all traffic at once, not in measured steps.

    Raises:
        SigningRefused: there is no key to sign the pointer with.
        ArtifactError: there is no such release, it would not load, or another promotion came first.
    """
    store, owner = own_store(), Tenant(tenant or read_settings().store.tenant)
    signer = read_signer(store.trust)
    known = {one.ref.serial: one.ref for one in list_releases(store, owner)}
    ref: ReleaseRef | None = known.get(serial)
    if ref is None:
        raise ArtifactMissing(f"release {serial} of tenant {owner}")
    try:
        before = read_pointer(store, owner).serial
    except ArtifactMissing:
        before = 0
    except ArtifactError as broken:
        console.print(f"the pointer is broken and is replaced: {broken}", highlight=False, markup=False)
        before = 0
    pointer = promote(store, owner, ref, before, signer=signer, at_once=at_once)
    console.print(
        f"tenant {owner} points to release {pointer.release} (pointer {pointer.serial}); a running service follows within seconds",
        highlight=False,
    )
