"""Signed references: small signed files that name a version, used for pointers and aliases.

A reference has its own serial, which rises with every move. Naming an older version again is
therefore a newer file, and an older file that reappears is a replay: a fault or an attack.

Every move writes the file twice: first the copy, which readers ignore, then the file itself. If the
file is broken or lost, the next move continues from the serial in the copy. If both are lost, it
counts from the shipped reference, and readers that have read a higher serial refuse the new file
until they are restarted.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from ensemble.errors import (
    ArtifactError,
    ArtifactIncompatible,
    ArtifactMissing,
    ArtifactUntrusted,
    PointerMoved,
)
from ensemble.store.audit_log import AuditedAction
from ensemble.store.files import atomic
from ensemble.store.files.safe_read import open_directory, read_bounded, sha256_of
from ensemble.store.layout import Store
from ensemble.store.signing import Document, Signer, signed_for

__all__ = ["SignedRef"]


class _Numbered(Protocol):
    @property
    def serial(self) -> int: ...


_T = TypeVar("_T", bound=_Numbered)


@dataclass(frozen=True, slots=True)
class SignedRef(Generic[_T]):
    """Place and format of a signed reference.

    Attributes:
        parts: path from a root to the directory.
        name: of the file.
        copy: name of the copy in the same directory.
        document: kind of document that the signature covers.
        limit_bytes: longer files are refused.
        parse: parses a proven text, and checks that it belongs to the expected tenant.
    """

    parts: tuple[str, ...]
    name: str
    copy: str
    document: Document
    limit_bytes: int
    parse: Callable[[bytes, str], _T]

    def read(self, store: Store, *, not_below: int = 0) -> _T:
        """Read the reference in `state`, or the shipped one if `state` has none.

        A broken reference in `state` raises. Falling back to the shipped one silently would be a
        rollback that no operator requested.

        Args:
            store: its roots are tried in order.
            not_below: highest serial that the reader has read before; 0 for none.

        Raises:
            ArtifactMissing: no root has it.
            ArtifactCorrupt: `move` would not have written it.
            ArtifactUnreadable: it exists, but permission is denied or the disk fails.
            ArtifactIncompatible: it has another format.
            ArtifactUntrusted: no trusted key signed it, it belongs to another tenant, or its serial
                is below `not_below`, so it is an old one.
        """
        found = self._read(store, self.name)
        if found.serial < not_below:
            raise ArtifactUntrusted(
                self.name, f"serial {found.serial} is older than {not_below}, which was read before"
            )
        return found

    def move(
        self,
        store: Store,
        expected_serial: int,
        make: Callable[[int, _T | None], bytes],
        *,
        signer: Signer,
        act: AuditedAction,
        what: str,
    ) -> _T:
        """Replace the reference. The caller holds the tenant's lock and has proven the target.

        Args:
            store: its `state` gets the reference.
            expected_serial: serial that the caller read; 0 if the reference was missing or broken.
            make: makes the text from the new serial and the value before.
            signer: signs the text; the store must trust its key.
            act: audited action; it begins before anything is written.
            what: target of the action, for the audit log.

        Raises:
            PointerMoved: the reference has another serial than the caller expects.
            ArtifactIncompatible: a newer Axon wrote the reference; it is not replaced.
            ArtifactUntrusted: the store does not trust the signer.
        """
        current, copy = self._usable(store, self.name), self._usable(store, self.copy)
        actual_serial = current.serial if current else 0
        if actual_serial != expected_serial:
            raise PointerMoved(expected_serial, actual_serial)
        text = make(1 + max(actual_serial, copy.serial if copy else 0), current or copy)
        data = signed_for(
            store.trust, signer, text, self.document, limit=self.limit_bytes, what=self.name
        )
        moved = self.parse(text, self.name)  # raises if readers could not parse it
        act.begin(what=what, digest=sha256_of(data))
        home = atomic.make_directory(store.state, *self.parts)
        with atomic.staging(store.state) as staged:
            # the copy first: a crash in between only skips a serial
            for name in (self.copy, self.name):
                atomic.write_new(staged, name, data, mode=0o644)
                atomic.replace_atomic(staged / name, home / name)
        return moved

    def _usable(self, store: Store, name: str) -> _T | None:
        """Read the file `name`; None if it is missing, broken or untrusted, so may be replaced."""
        try:
            return self._read(store, name)
        except ArtifactIncompatible:
            raise
        except ArtifactError:
            return None

    def _read(self, store: Store, name: str) -> _T:
        for root in store.roots:
            try:
                with open_directory(root, *self.parts, what=name) as directory:
                    data = read_bounded(directory, name, limit=self.limit_bytes, what=name)
            except ArtifactMissing:
                continue
            return self.parse(store.trust.prove(data, self.document, what=name), name)
        raise ArtifactMissing(name)
