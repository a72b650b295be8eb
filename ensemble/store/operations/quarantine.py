"""Quarantine of hostile bundles and files, with the reason, where no reader finds them.

    <state>/.quarantine/<tenant>/<number>/about.json    what, why, when, by whom
    <state>/.quarantine/<tenant>/<number>/bundle/       the version as it was in the store, or
    <state>/.quarantine/<tenant>/<number>/file          the bytes that were imported

Axon releases nothing from quarantine. After an investigation the operator publishes the model again
or removes the folder.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Final

from msgspec import Meta

from ensemble.errors import ArtifactError, QuotaExceeded
from ensemble.store.audit_log import Action, AuditedAction
from ensemble.store.bundles.quota import folder_bytes
from ensemble.store.files import atomic, canonical_json
from ensemble.store.files.canonical_json import timestamp
from ensemble.store.files.safe_read import list_names, open_directory, read_bounded, sha256_of
from ensemble.store.layout import Store, quarantine_parts, serials_in
from ensemble.store.names import ModelName, Tenant
from ensemble.store.operations.deletion import (
    deletion_lock,
    digest_of,
    leave_tombstone,
    require_own,
    require_unreferenced,
)
from ensemble.store.operations.references import StoredItem

__all__ = ["Quarantined", "list_quarantine", "quarantine_bundle", "quarantine_file"]

FORMAT: Final = 1
LONGEST_TEXT = 200  # characters of what and who
# items of a tenant; they stay until the operator has examined them, and must not fill the disk
MOST, MOST_BYTES = 100, 1 << 30
LONGEST_REASON = 500  # characters
ABOUT_LIMIT_BYTES = 8 << 10  # enough if JSON escapes every character in six bytes
_ABOUT, _BUNDLE, _FILE = "about.json", "bundle", "file"


@dataclass(frozen=True, slots=True)
class Quarantined:
    """One item in quarantine.

    Attributes:
        number: its number in the tenant's quarantine.
        what: e.g. `anomaly-flow/3`.
        digest: SHA-256 of the manifest or of the file, "" if it could not be read.
        reason: given by the operator.
        who: name of the actor.
        at: time, UTC.
        is_there: False if only the record is left, after a crash or a removal by hand.
        problem: why the record cannot be read, "" if it can; if not, the other fields are empty.
    """

    number: int
    what: str
    digest: str
    reason: str
    who: str
    at: str
    is_there: bool
    problem: str = ""


def quarantine_bundle(
    store: Store, tenant: Tenant, model: ModelName, version: int, reason: str, *, even_in_use: bool
) -> Quarantined:
    """Quarantine one version of a model; its number is not used again.

    Args:
        store: its `state` holds the version and the quarantine.
        tenant: owner of the model.
        model: its name.
        version: its number.
        reason: for the record.
        even_in_use: also if it serves; replicas then fall back to an earlier release that they
            can prove. Roll back first where you can.

    Raises:
        ArtifactMissing: there is no such version.
        ArtifactInUse: it is referenced, or it was shipped with Axon.
        QuotaExceeded: the tenant's quarantine is full.
        OSError: the disk fails; the version is in its old place or in quarantine.
    """
    entry = StoredItem(tenant, model, version)
    with AuditedAction(store, tenant, Action.QUARANTINE, str(entry)) as act:
        require_own(store, entry)
        with deletion_lock(store, tenant):
            require_own(store, entry)
            if not even_in_use:
                require_unreferenced(store, entry)
            number = _next_number(store, tenant)
            digest = digest_of(store, entry)
            act.begin(digest=digest)
            place = _quarantine(
                store, tenant, number, _about(store, str(entry), digest, reason), {}
            )
            leave_tombstone(store, entry)
            atomic.take_out(store.state.joinpath(*entry.parts, entry.name), place / _BUNDLE)
    return _read(store, tenant, number)


def quarantine_file(
    store: Store, tenant: Tenant, data: bytes, reason: str, *, what: str
) -> Quarantined:
    """Quarantine an imported file unchanged; `what` describes it for the record.

    Raises:
        QuotaExceeded: the tenant's quarantine is full.
        OSError: the disk fails; nothing was stored.
    """
    digest = sha256_of(data)
    with (
        AuditedAction(store, tenant, Action.QUARANTINE, what, digest) as act,
        deletion_lock(store, tenant),
    ):
        number = _next_number(store, tenant)
        home = store.state.joinpath(*quarantine_parts(tenant))
        if folder_bytes(home) + len(data) > MOST_BYTES:
            raise QuotaExceeded("bytes in quarantine", MOST_BYTES)
        act.begin()
        _quarantine(store, tenant, number, _about(store, what, digest, reason), {_FILE: data})
    return _read(store, tenant, number)


def list_quarantine(store: Store, tenant: Tenant) -> tuple[Quarantined, ...]:
    """List a tenant's quarantine, newest first."""
    return tuple(
        _read(store, tenant, number)
        for number in reversed(serials_in(store.state, quarantine_parts(tenant)))
    )


@dataclass(frozen=True, slots=True)
class _About:
    format: Annotated[int, Meta(ge=FORMAT, le=FORMAT)]
    what: str
    digest: str
    reason: str
    who: str
    at: str


def _about(store: Store, what: str, digest: str, reason: str) -> _About:
    at = timestamp(datetime.fromtimestamp(store.clock(), UTC))
    return _About(
        FORMAT,
        what[:LONGEST_TEXT],
        digest,
        reason[:LONGEST_REASON],
        store.actor.name[:LONGEST_TEXT],
        at,
    )


def _next_number(store: Store, tenant: Tenant) -> int:
    numbers = serials_in(store.state, quarantine_parts(tenant))
    if len(numbers) >= MOST:
        raise QuotaExceeded("items in quarantine", MOST)
    return 1 + max(numbers, default=0)


def _quarantine(
    store: Store, tenant: Tenant, number: int, about: _About, files: Mapping[str, bytes]
) -> Path:
    """Create a directory that only Axon's user may enter, with the record in it."""
    home = atomic.make_directory(store.state, *quarantine_parts(tenant))
    with atomic.staging(store.state) as staged:
        for name, data in ({_ABOUT: canonical_json.encode(asdict(about))} | dict(files)).items():
            atomic.write_new(staged, name, data, mode=0o400)
        atomic.seal(staged, 0o700)
        atomic.place_new(staged, home / str(number), what=f"quarantine {number}")
    return home / str(number)


def _read(store: Store, tenant: Tenant, number: int) -> Quarantined:
    what = f"quarantine {number}"
    is_there = False
    try:
        with open_directory(
            store.state, *quarantine_parts(tenant), str(number), what=what
        ) as directory:
            is_there = bool({_BUNDLE, _FILE} & set(list_names(directory, what=what)))
            data = read_bounded(directory, _ABOUT, limit=ABOUT_LIMIT_BYTES, what=what)
        about = canonical_json.to_dataclass(
            canonical_json.decode(data, what=what), _About, what=what
        )
    except ArtifactError as error:
        return Quarantined(number, "", "", "", "", "", is_there, str(error))
    return Quarantined(
        number, about.what, about.digest, about.reason, about.who, about.at, is_there
    )
