"""Where things lie in the store.

    <root>/tenants/<tenant>/bundles/<model>/<serial>/   manifest.json and the files it names
    <root>/tenants/<tenant>/releases/<serial>.json
    <root>/tenants/<tenant>/CURRENT                     the pointer: what readers read
    <root>/tenants/<tenant>/PROMOTED                    its copy, for the promoter of the day that CURRENT is broken
    <root>/.staging/<uuid>/                             unfinished work, swept after an hour

There are two roots: `state` is written by a running Axon, `shipped` comes with it and is only read. Both are looked
through in that order, and serials rise over both together, so that a number never means two things.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ensemble.errors import ArtifactMissing
from ensemble.store.names import parse_serial
from ensemble.store.reading import list_names, open_directory
from ensemble.store.signing import Trust

if TYPE_CHECKING:
    from pathlib import Path

    from ensemble.store.names import ModelName, Tenant

__all__ = [
    "MANIFEST",
    "POINTER",
    "POINTER_COPY",
    "RELEASE_SUFFIX",
    "Store",
    "bundle_parts",
    "next_serial",
    "release_parts",
    "serials_in",
    "tenant_parts",
]

MANIFEST = "manifest.json"
POINTER = "CURRENT"
POINTER_COPY = "PROMOTED"
RELEASE_SUFFIX = ".json"


@dataclass(frozen=True, slots=True)
class Store:
    """The two roots of a store, and whom its readers believe.

    Attributes:
        state: written by publishing and promoting; need not exist yet.
        shipped: read-only defaults, looked up second; None where there are none.
        trust: whose signature, or which digest, makes a file of either root trusted; nothing in a root can add to it.
    """

    state: Path
    shipped: Path | None
    trust: Trust

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
    """The number after the highest of both roots. Call it holding the tenant's lock, or another publisher gets the same."""
    return 1 + max((serial for root in store.roots for serial in serials_in(root, parts, suffix=suffix)), default=0)
