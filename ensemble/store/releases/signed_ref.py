"""Signed references: small signed files that name a version; pointer and aliases are two.

It has a serial of its own, which rises with every move. Naming an older version again is therefore
a newer file, and an older file that comes back is a replay: a fault, or an attack.

Every move writes the file twice: first the copy, which no reader looks at, then the file itself. A
mover who finds the file broken or gone takes the serial from the copy, so that serials go on
rising. With both gone it counts from what the shipped root has, and readers who saw a higher serial
refuse it until they are restarted.
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
    """Where such a file lies, and how it is read.

    Attributes:
        parts: from a root to its directory.
        name: of the file.
        copy: of its copy, in the same directory.
        document: what it is signed as.
        limit_bytes: longer ones are refused.
        parse: the value that a proven text spells; whose it is, is in the text and checked here.
    """

    parts: tuple[str, ...]
    name: str
    copy: str
    document: Document
    limit_bytes: int
    parse: Callable[[bytes, str], _T]

    def read(self, store: Store, *, not_below: int = 0) -> _T:
        """What it says: that of `state`, or where it has none, the shipped one.

        One in `state` that is broken is an error and not a reason to look further: falling back to
        the shipped one without a word would be a roll back that nobody asked for.

        Args:
            store: looked through in order.
            not_below: the highest serial the reader has seen; 0 for a reader that has seen none.

        Raises:
            ArtifactMissing: no root has it.
            ArtifactCorrupt: it is not what `move` writes.
            ArtifactUnreadable: it is there, but permission or the disk fails.
            ArtifactIncompatible: another format.
            ArtifactUntrusted: nobody we trust signed it, it is another tenant's, or its serial
                is below `not_below`: an old
                one came back.
        """
        found = self._read(store, self.name)
        if found.serial < not_below:
            raise ArtifactUntrusted(
                self.name, f"serial {found.serial} is older than {not_below}, which was seen before"
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
            store: its `state` gets it.
            expected_serial: of the one the caller saw; 0 where there was none, or none that
                could be read and proven.
            make: the text from the new serial and the one before.
            signer: signs it; its key must be one that the store trusts.
            act: begun before anything is written.
            what: of the act.

        Raises:
            PointerMoved: it stands elsewhere than the caller saw it.
            ArtifactIncompatible: it is of a newer Axon, whose business it stays.
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
        moved = self.parse(text, self.name)  # what could not be read back does not replace what can
        act.begin(what=what, digest=sha256_of(data))
        home = atomic.make_directory(store.state, *self.parts)
        with atomic.staging(store.state) as staged:
            for name in (
                self.copy,
                self.name,
            ):  # the copy first: whoever dies in between has used up a serial, no more
                atomic.write_new(staged, name, data, mode=0o644)
                atomic.replace_atomic(staged / name, home / name)
        return moved

    def _usable(self, store: Store, name: str) -> _T | None:
        """What lies under `name`, or None where a move should replace it.

        Gone, broken, or signed by nobody we trust.
        """
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
