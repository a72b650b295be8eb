"""Quarantine: hostile bundles and files, with the reason, where no reader finds them.

    <state>/.quarantine/<tenant>/<number>/about.json    what, why, when, by whom
    <state>/.quarantine/<tenant>/<number>/bundle/       the version as it lay in the store; or
    `file`, the bytes that were handed in

Nothing is released from here by Axon: whoever has looked at it publishes it again, or removes the
folder.
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
# a tenant: what is set aside is kept until somebody has looked at it, and must not fill the disk
MOST = 100
LONGEST_REASON = 500  # characters
ABOUT_LIMIT_BYTES = 8 << 10  # with every character of the texts written in six
_ABOUT, _BUNDLE, _FILE = "about.json", "bundle", "file"


@dataclass(frozen=True, slots=True)
class Quarantined:
    """Something that was set aside.

    Attributes:
        number: of it among all of its tenant.
        what: e.g. `anomaly-flow/3`.
        digest: SHA-256 of the manifest or of the file, "" where it could not be read.
        reason: in the words of who set it aside.
        who: set it aside.
        at: when, UTC.
        is_there: False where a crash, or somebody by hand, left only the note.
        problem: what is wrong with the note, "" where nothing is known; the other fields then
            say nothing.
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
    """Set one version of a model aside; its number never comes back.

    `reason` is for whoever looks at it later. `even_in_use`: also where it serves, and replicas
    then fall back to what they can
    prove; otherwise roll back first.

    Raises:
        ArtifactMissing: there is none of that number.
        ArtifactInUse: something names it, or it came with Axon.
        QuotaExceeded: too much is set aside already.
        OSError: the disk fails; it lies where it lay, or aside.
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
    """Set aside a file that was handed in, as it came; `what` says what it claimed to be.

    Raises:
        QuotaExceeded: too much is set aside already.
        OSError: the disk fails; nothing was set aside.
    """
    digest = sha256_of(data)
    with (
        AuditedAction(store, tenant, Action.QUARANTINE, what, digest) as act,
        deletion_lock(store, tenant),
    ):
        number = _next_number(store, tenant)
        act.begin()
        _quarantine(store, tenant, number, _about(store, what, digest, reason), {_FILE: data})
    return _read(store, tenant, number)


def list_quarantine(store: Store, tenant: Tenant) -> tuple[Quarantined, ...]:
    """What was set aside of this tenant's, the newest first."""
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
        raise QuotaExceeded("what is set aside in quarantine", MOST)
    return 1 + max(numbers, default=0)


def _quarantine(
    store: Store, tenant: Tenant, number: int, about: _About, files: Mapping[str, bytes]
) -> Path:
    """A place of its own, which nobody but us may enter.

    The note is there before what it is about.
    """
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
