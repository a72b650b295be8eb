"""Layout of the store: the paths of bundles, releases, pointers and the audit log.

    <root>/tenants/<tenant>/bundles/<model>/<serial>/  manifest.json and the files it names
    <root>/tenants/<tenant>/bundles/<model>/GONE       tombstone: highest serial at a deletion
    <root>/tenants/<tenant>/releases/<serial>.json     a release
    <root>/tenants/<tenant>/releases/GONE              tombstone of releases
    <root>/tenants/<tenant>/CURRENT                    the pointer, which readers read
    <root>/tenants/<tenant>/PROMOTED                   its copy, for repair when CURRENT is broken
    <root>/tenants/<tenant>/CHALLENGER                 the release in shadow evaluation
    <root>/tenants/<tenant>/aliases/<model>/<alias>    champion or challenger of a model
    <root>/.quarantine/<tenant>/<number>/              hostile files, which no reader opens
    <root>/.staging/<uuid>/                            unfinished work, swept after an hour
    <root>/audit.jsonl                                 audit log; older: audit-<last line>.jsonl

There are two roots. A running Axon writes `state`; `shipped` comes with Axon and is read-only.
Readers try `state` first. Serials rise over both roots together, so no number is used twice.
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
    """The two roots of a store, and the trust of its readers.

    Attributes:
        state: root for all writes; need not exist yet.
        shipped: read-only defaults, read second; None if there are none.
        trust: keys and digests that make a file of either root trusted; no file in a root can
            add to it.
        actor: user or API key behind every action; recorded in the audit log of `state`.
        clock: seconds since 1970, for the audit log only.
    """

    state: Path
    shipped: Path | None
    trust: Trust
    actor: Actor = Actor("", "")
    clock: Callable[[], float] = time.time

    @property
    def roots(self) -> tuple[Path, ...]:
        """The roots in the order in which readers try them."""
        return (self.state,) if self.shipped is None else (self.state, self.shipped)


def tenant_parts(tenant: Tenant) -> tuple[str, ...]:
    """Path from a root to a tenant's directory."""
    return ("tenants", tenant)


def bundle_parts(tenant: Tenant, model: ModelName) -> tuple[str, ...]:
    """Path from a root to the directory of a model's versions."""
    return ("tenants", tenant, "bundles", model)


def release_parts(tenant: Tenant) -> tuple[str, ...]:
    """Path from a root to the directory of a tenant's releases."""
    return ("tenants", tenant, "releases")


def alias_parts(tenant: Tenant, model: ModelName) -> tuple[str, ...]:
    """Path from a root to the directory of a model's aliases."""
    return ("tenants", tenant, "aliases", model)


def quarantine_parts(tenant: Tenant) -> tuple[str, ...]:
    """Path from a root to a tenant's quarantine; no name of a tenant or model leads there."""
    return (".quarantine", tenant)


def serials_in(root: Path, parts: tuple[str, ...], *, suffix: str = "") -> list[int]:
    """List the serials in one directory of one root, ascending; other names are ignored.

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
    """Return the number after the highest ever used in either root, deleted ones included.

    The caller holds the tenant's lock; otherwise another publisher can get the same number.

    Raises:
        ArtifactError: a directory cannot be read, or the tombstone is broken. No version is
            published then, because its number could be one that was used before.
    """
    return 1 + highest_serial(store, parts, suffix=suffix)


def highest_serial(store: Store, parts: tuple[str, ...], *, suffix: str = "") -> int:
    """Return the highest number ever used, 0 for none; arguments and errors as in `next_serial`."""
    there = max(
        (serial for root in store.roots for serial in serials_in(root, parts, suffix=suffix)),
        default=0,
    )
    return max(there, _removed_up_to(store.state, parts))


def encode_tombstone(highest: int) -> bytes:
    """Encode the file that records the highest number ever used, past deletions."""
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
