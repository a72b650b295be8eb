"""Layout of the store: where bundles, releases, pointers and the audit log stand.

    <root>/tenants/<tenant>/bundles/<model>/<serial>/  manifest.json and the files it names
    <root>/tenants/<tenant>/bundles/<model>/GONE       tombstone: highest serial at a deletion
    <root>/tenants/<tenant>/releases/<serial>.json     a release
    <root>/tenants/<tenant>/releases/GONE              tombstone of releases
    <root>/tenants/<tenant>/CURRENT                    the pointer, which readers read
    <root>/tenants/<tenant>/PROMOTED                   its copy, for repair when CURRENT is broken
    <root>/tenants/<tenant>/CHALLENGER                 the release in shadow evaluation
    <root>/tenants/<tenant>/aliases/<model>/<alias>    champion and challenger of a model of its own
    <root>/.quarantine/<tenant>/<number>/              hostile files; no reader looks there
    <root>/.staging/<uuid>/                            unfinished work, swept after an hour
    <root>/audit.jsonl                                 audit log; older: audit-<last line>.jsonl

There are two roots: `state` is written by a running Axon, `shipped` comes with it and is only read.
Both are looked through in that order, and serials rise over both together, so that a number never
means two things.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from msgspec import Meta

from ensemble.errors import ArtifactMissing
from ensemble.store.files import canonical_json
from ensemble.store.files.safe_read import list_names, open_directory, read_bounded
from ensemble.store.names import parse_serial
from ensemble.store.signing import Trust

if TYPE_CHECKING:
    from pathlib import Path

    from ensemble.store.names import ModelName, Tenant

__all__ = [
    "CHALLENGER",
    "MANIFEST",
    "POINTER",
    "POINTER_COPY",
    "RELEASE_SUFFIX",
    "TOMBSTONE",
    "Actor",
    "Store",
    "alias_parts",
    "bundle_parts",
    "encode_tombstone",
    "highest_serial",
    "next_serial",
    "quarantine_parts",
    "release_parts",
    "serials_in",
    "tenant_parts",
]

MANIFEST = "manifest.json"
POINTER = "CURRENT"
POINTER_COPY = "PROMOTED"
CHALLENGER = "CHALLENGER"
TOMBSTONE = "GONE"
RELEASE_SUFFIX = ".json"
TOMBSTONE_LIMIT_BYTES = 256  # one number


@dataclass(frozen=True, slots=True)
class Actor:
    """The user or API key that acts on a store, for the audit log.

    Attributes:
        name: user of the system, or id of the API key; "" if unknown.
        where: origin of the action, e.g. "terminal" or the address of the client.
    """

    name: str
    where: str


@dataclass(frozen=True, slots=True)
class Store:
    """The two roots of a store, and whom its readers believe.

    Attributes:
        state: written by publishing and promoting; need not exist yet.
        shipped: read-only defaults, looked up second; None where there are none.
        trust: whose signature, or which digest, makes a file of either root trusted; nothing in
            a root can add to it.
        actor: who acts through this value; every act leaves a line of it in the audit log of
            `state`.
        clock: seconds since 1970, for the audit log alone.
    """

    state: Path
    shipped: Path | None
    trust: Trust
    actor: Actor = Actor("", "")
    clock: Callable[[], float] = time.time

    @property
    def roots(self) -> tuple[Path, ...]:
        """The roots in the order of looking."""
        return (self.state,) if self.shipped is None else (self.state, self.shipped)


def tenant_parts(tenant: Tenant) -> tuple[str, ...]:
    """From a root to a tenant's directory."""
    return ("tenants", tenant)


def bundle_parts(tenant: Tenant, model: ModelName) -> tuple[str, ...]:
    """From a root to the directory that holds a model's versions."""
    return ("tenants", tenant, "bundles", model)


def release_parts(tenant: Tenant) -> tuple[str, ...]:
    """From a root to the directory that holds a tenant's releases."""
    return ("tenants", tenant, "releases")


def alias_parts(tenant: Tenant, model: ModelName) -> tuple[str, ...]:
    """From a root to the directory that holds the aliases of a model."""
    return ("tenants", tenant, "aliases", model)


def quarantine_parts(tenant: Tenant) -> tuple[str, ...]:
    """From a root to what was set aside of a tenant's; no name of a tenant or model leads there."""
    return (".quarantine", tenant)


def serials_in(root: Path, parts: tuple[str, ...], *, suffix: str = "") -> list[int]:
    """The serials in one directory of one root, rising; names that are no serial are passed over.

    Raises:
        ArtifactCorrupt: the directory is a link.
        ArtifactUnreadable: it may not be read.
    """
    try:
        with open_directory(root, *parts, what="/".join(parts)) as directory:
            names = list_names(directory, what="/".join(parts))
    except ArtifactMissing:
        return []
    found = (parse_serial(name.removesuffix(suffix)) for name in names if name.endswith(suffix))
    return sorted(serial for serial in found if serial is not None)


def next_serial(store: Store, parts: tuple[str, ...], *, suffix: str = "") -> int:
    """The number after the highest that ever was in either root, the removed among them.

    Call it holding the tenant's lock, or another publisher gets the same.

    Raises:
        ArtifactError: a directory cannot be read, or the tombstone is broken: better no new
            version than an old number twice.
    """
    return 1 + highest_serial(store, parts, suffix=suffix)


def highest_serial(store: Store, parts: tuple[str, ...], *, suffix: str = "") -> int:
    """The highest number that ever was, 0 where there was none.

    Arguments and errors as for `next_serial`.
    """
    there = max(
        (serial for root in store.roots for serial in serials_in(root, parts, suffix=suffix)),
        default=0,
    )
    return max(there, _removed_up_to(store.state, parts))


def encode_tombstone(highest: int) -> bytes:
    """What lies beside serials of which the highest is, or was, `highest`."""
    return canonical_json.encode({"format": 1, "highest": highest})


@dataclass(frozen=True, slots=True)
class _Tombstone:
    format: Annotated[int, Meta(ge=1, le=1)]
    highest: Annotated[int, Meta(ge=1, lt=10**15)]


def _removed_up_to(root: Path, parts: tuple[str, ...]) -> int:
    what = "/".join((*parts, TOMBSTONE))
    try:
        with open_directory(root, *parts, what=what) as directory:
            data = read_bounded(directory, TOMBSTONE, limit=TOMBSTONE_LIMIT_BYTES, what=what)
    except ArtifactMissing:
        return 0
    return canonical_json.to_dataclass(
        canonical_json.decode(data, what=what), _Tombstone, what=what
    ).highest
