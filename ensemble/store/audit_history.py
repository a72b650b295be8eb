"""The old lines of the audit log, archived for each tenant when the log removes its oldest file.

`<state>/audit-of-<tenant>.jsonl` has the newest of a tenant's lines that the log itself no longer
has. So a tenant that acts much shortens the history of none but itself. The chain of digests holds
for the log alone: these lines were part of it, and nothing proves that they are unchanged.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from ensemble.errors import ArtifactCorrupt, ArtifactMissing, MalformedEvent
from ensemble.store.files import atomic, canonical_json
from ensemble.store.files.safe_read import open_directory, read_bounded
from ensemble.store.names import Tenant

__all__ = ["archive_lines", "archived_lines"]

SHARE_BYTES: Final = 256 << 10  # of a tenant, some eight hundred lines


def archive_lines(state: Path, removed: bytes) -> None:
    """Add lines to the histories of their tenants. The caller holds the lock of the log.

    Args:
        state: folder of the log.
        removed: lines of the log, the oldest first; those without a tenant are skipped.

    Raises:
        OSError: the disk is full or failing.
        ArtifactError: a history is a link or cannot be read.
    """
    added: dict[Tenant, list[bytes]] = {}
    for line in removed.splitlines(keepends=True):
        if (tenant := _tenant_of(line)) is not None:
            added.setdefault(tenant, []).append(line)
    for tenant, new in added.items():
        text = b"".join([*archived_lines(state, tenant), *new])
        if len(text) > SHARE_BYTES:  # from the first line that is whole
            text = text[text.index(b"\n", len(text) - SHARE_BYTES - 1) + 1 :]
        atomic.write_atomic(state, state / _name_of(tenant), text, mode=0o640)


def archived_lines(state: Path, tenant: Tenant) -> list[bytes]:
    """The archived lines of a tenant, each with its newline, the oldest first.

    Raises:
        ArtifactError: its history is a link or cannot be read.
    """
    name = _name_of(tenant)
    try:
        with open_directory(state, what=name) as directory:
            text = read_bounded(directory, name, limit=SHARE_BYTES, what=name)
    except ArtifactMissing:
        return []
    return text.splitlines(keepends=True)


def _name_of(tenant: Tenant) -> str:
    return f"audit-of-{tenant}.jsonl"


def _tenant_of(line: bytes) -> Tenant | None:
    """The tenant of a line; None for a line that a crash cut short, or that was tampered with."""
    try:
        fields = canonical_json.decode(line, what="audit.jsonl")
        return Tenant(fields["tenant"]) if isinstance(fields, dict) else None
    except (ArtifactCorrupt, MalformedEvent, KeyError):
        return None
