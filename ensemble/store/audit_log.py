"""The audit log: actor, action, digest, time and origin of every change of the store.

An action starts only after its line is on disk.

`<state>/audit.jsonl`, one line of canonical JSON a step. The line that an act is begun is on the
disk before the act can be seen;
a second one says how it ended. A begun act without an end is one whose process died in between:
look at what it was about.
Each line carries the SHA-256 of the line before it, so one that was changed or taken out of the
middle is found. Who can write the
file can cut off its end, or write all of it anew: only a digest that is remembered elsewhere shows
that (`verify_audit`).
A line that a crash cut short is ended by the next writer and passed over: it was of an act that had
not begun.
The log is bounded: a full file is set aside under the number of its last line, and the oldest of
these are removed.
"""

from __future__ import annotations

import errno
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from ensemble.errors import ArtifactError, ArtifactMissing, EnsembleError
from ensemble.store.files import atomic, canonical_json
from ensemble.store.files.canonical_json import timestamp
from ensemble.store.files.safe_read import list_names, open_directory, read_bounded, sha256_of
from ensemble.store.layout import Store
from ensemble.store.names import Tenant, parse_serial

__all__ = [
    "LOG",
    "Action",
    "AuditEntry",
    "AuditReport",
    "AuditedAction",
    "Outcome",
    "read_audit",
    "verify_audit",
]

LOG: Final = "audit.jsonl"
FULL_BYTES = 1 << 20  # some three thousand lines; every act reads the file that is being written
# full ones: a hundred thousand lines. Whoever may manage one tenant can fill them in time: keep a
# copy elsewhere
MOST_FULL_FILES = 32
LONGEST_TEXT = 200  # characters of who, where and what
_LOCK = ".audit.lock"
_PREFIX, _SUFFIX = "audit-", ".jsonl"


class Action(StrEnum):
    """What is done to a store, and to who may ask."""

    PUBLISH = "publish"
    PUBLISH_RELEASE = "publish_release"
    PROMOTE = "promote"
    ROLL_BACK = "roll_back"
    SET_ALIAS = "set_alias"
    CLEAR_ALIAS = "clear_alias"
    DELETE = "delete"
    RETENTION = "retention"
    QUARANTINE = "quarantine"
    IMPORT = "import"
    CREATE_KEY = "create_key"
    REVOKE_KEY = "revoke_key"


class Outcome(StrEnum):
    """Outcome of an action."""

    BEGUN = "begun"
    DONE = "done"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """One audited action.

    Attributes:
        number: of its first line, rising; what failed before it was begun has one line.
        at: UTC, `2026-11-20T08:15:00Z`, by the clock of who acted; for people, the order is the
            number's.
        what: e.g. `anomaly-flow/3`, `release 7`.
        digest: SHA-256 of what it is about, "" where there is none.
        code: of the error that ended it, "" where there was none.
    """

    number: int
    at: str
    who: str
    where: str
    tenant: str
    act: str
    what: str
    digest: str
    outcome: Outcome
    code: str


@dataclass(frozen=True, slots=True)
class AuditReport:
    """What a look at the whole log found.

    Attributes:
        lines: that are whole and in the chain.
        first: number of the first line that is kept.
        last: number of the last line, 0 where there is none.
        head: SHA-256 of the last line: remember it elsewhere, and give it to the next look.
        torn: pieces of lines that a crash left; no act is among them.
        problems: what was changed or is gone, in words; () where nothing is known.
    """

    lines: int
    first: int
    last: int
    head: str
    torn: int
    problems: tuple[str, ...]


class AuditedAction:
    """One act on a store, from its first line to its last; a `with` block around all of it.

    Args:
        store: whose actor, clock and log.
        tenant: whose things are acted on.
        action: what is done.
        what: to what; `begin` may know better.
        digest: SHA-256 of that, where it is known already; likewise.
    """

    def __init__(
        self, store: Store, tenant: Tenant, action: Action, what: str, digest: str = ""
    ) -> None:
        self._store, self._tenant, self._action = store, tenant, action
        self._what, self._digest = what, digest
        self._number = 0

    def __enter__(self) -> Self:
        return self

    def begin(self, *, what: str = "", digest: str = "") -> None:
        """Say what is about to be done. Whatever a reader could see comes after this.

        Raises:
            OSError: the disk is full or failing; then nothing is to be done.
            ArtifactError: the log is a link, or cannot be read; likewise.
        """
        self._what, self._digest = what or self._what, digest or self._digest
        self._number = self._append(Outcome.BEGUN, "")

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is None and not self._number:
            return  # there was nothing to do
        with suppress(
            OSError, ArtifactError
        ):  # the act is done or not done already; the first line stands
            self._append(
                Outcome.DONE if error is None else Outcome.FAILED,
                "" if error is None else _code_of(error),
            )

    def _append(self, outcome: Outcome, code: str) -> int:
        state, actor = self._store.state, self._store.actor
        at = timestamp(datetime.fromtimestamp(self._store.clock(), UTC))
        atomic.make_directory(state)
        with atomic.exclusive(state, _LOCK):
            end = _end_of(state)
            if end.size_bytes >= FULL_BYTES:
                _rotate(state, end.number)
            line = _Line(
                number=end.number + 1,
                at=at,
                who=actor.name[:LONGEST_TEXT],
                where=actor.where[:LONGEST_TEXT],
                tenant=self._tenant,
                act=self._action,
                what=self._what[:LONGEST_TEXT],
                digest=self._digest,
                outcome=outcome,
                code=code,
                of=self._number,
                before=end.sha256,
            )
            text = canonical_json.encode(asdict(line))
            atomic.append(state, LOG, (b"\n" if end.is_torn else b"") + text, mode=0o640)
        return line.number


def read_audit(store: Store, tenant: Tenant | None, *, limit: int) -> tuple[AuditEntry, ...]:
    """The newest acts first.

    Args:
        store: whose log.
        tenant: only what was done to this tenant's things; None for everybody's.
        limit: at most so many.

    Raises:
        ArtifactError: the log is there, and cannot be read.
    """
    while True:
        names = _files(store.state)
        found = _newest(store.state, names, tenant, limit)
        if names == _files(
            store.state
        ):  # else a full file was set aside meanwhile, and may have been passed over
            return found


def _newest(
    state: Path, names: Sequence[str], tenant: Tenant | None, limit: int
) -> tuple[AuditEntry, ...]:
    mark = (
        b'"tenant":' + canonical_json.encode(tenant).rstrip(b"\n") if tenant is not None else b""
    )  # as every line spells it
    ends: dict[int, _Line] = {}
    entries: list[AuditEntry] = []
    for name in reversed(names):
        for text in reversed(_read(state, name).split(b"\n")):
            line = _parse(text) if mark in text else None
            if line is None or tenant not in (None, line.tenant):
                continue
            if line.of:
                ends[line.of] = line
                continue
            entries.append(_entry(line, ends.pop(line.number, line)))
            if len(entries) >= limit:
                return tuple(entries)
    return tuple(entries)


def verify_audit(store: Store, *, remembered: str = "") -> AuditReport:
    """Follow the chain through all of the log.

    Args:
        store: whose log.
        remembered: `head` of an earlier look: that line must still be there, so nothing up to
            it was cut off or written anew. One that is
            older than the oldest file that is kept is not found either.

    Raises:
        ArtifactError: the log is there, and cannot be read.
    """
    if not store.state.is_dir():
        return _followed(store.state, remembered)
    with atomic.exclusive(
        store.state, _LOCK
    ):  # a line that is being written is no torn one, and no file is set aside meanwhile
        return _followed(store.state, remembered)


def _followed(state: Path, remembered: str) -> AuditReport:
    before: _Line | None = None
    head, first, lines, torn = "", 0, 0, 0
    problems: list[str] = []
    is_found = not remembered
    names = _files(state)
    for text in (text for name in names for text in _read(state, name).split(b"\n")):
        if not text:
            continue
        line = _parse(text)
        if line is None:
            torn += 1
            continue
        if before is None:
            first = line.number
            problems += _problems_of_the_first(line, sum(name != LOG for name in names))
        elif line.number != before.number + 1 or line.before != head:
            between = f"between line {before.number} and line {line.number}"
            problems.append(f"{between} something was changed or taken out")
        before, head, lines = line, sha256_of(text + b"\n"), lines + 1
        is_found = is_found or head == remembered
    if not is_found:
        problems.append(
            "the line that was remembered is not there any more: the end was cut off, or the "
            "log was written anew"
        )
    return AuditReport(lines, first, before.number if before else 0, head, torn, tuple(problems))


@dataclass(frozen=True, slots=True)
class _Line:
    number: int
    at: str
    who: str
    where: str
    tenant: str
    act: str
    what: str
    digest: str
    outcome: Outcome
    code: str
    # the line that began what this one ends; 0 for one that begins, or failed before it was begun
    of: int
    before: str  # SHA-256 of the line before, with its newline; "" of the first


@dataclass(frozen=True, slots=True)
class _End:
    """Where the log ends now."""

    number: int
    sha256: str
    size_bytes: int
    is_torn: bool


def _end_of(state: Path) -> _End:
    current = _read(state, LOG)
    is_torn = not current.endswith(b"\n") and bool(current)
    for name in reversed(_files(state)):
        for text in reversed((current if name == LOG else _read(state, name)).split(b"\n")):
            if line := _parse(text):
                return _End(line.number, sha256_of(text + b"\n"), len(current), is_torn)
    return _End(0, "", len(current), is_torn)


def _rotate(state: Path, last: int) -> None:
    atomic.replace_atomic(state / LOG, state / f"{_PREFIX}{last}{_SUFFIX}")
    for name in _files(state)[:-MOST_FULL_FILES]:
        atomic.remove(state / name)


def _files(state: Path) -> list[str]:
    """The files of the log that are there, the oldest first."""
    try:
        with open_directory(state, what=LOG) as directory:
            names = list_names(directory, what=LOG)
    except ArtifactMissing:
        return []
    numbered = [
        (parse_serial(name.removeprefix(_PREFIX).removesuffix(_SUFFIX)), name)
        for name in names
        if name.startswith(_PREFIX)
    ]
    aside = sorted((number, name) for number, name in numbered if number is not None)
    return [name for _, name in aside] + ([LOG] if LOG in names else [])


def _read(state: Path, name: str) -> bytes:
    try:
        with open_directory(state, what=name) as directory:
            return read_bounded(directory, name, limit=2 * FULL_BYTES, what=name)
    except ArtifactMissing:
        return b""


def _parse(text: bytes) -> _Line | None:
    """The line that `text` spells; None where it is a piece of one."""
    try:
        return canonical_json.to_dataclass(
            canonical_json.decode(text + b"\n", what=LOG), _Line, what=LOG
        )
    except ArtifactError:
        return None


def _problems_of_the_first(line: _Line, aside: int) -> list[str]:
    if line.number == 1 or aside >= MOST_FULL_FILES:  # the older ones were full, and too many
        return [] if line.number > 1 or not line.before else ["line 1 is not the first"]
    return [f"the log begins with line {line.number}: files of it are gone"]


def _entry(line: _Line, end: _Line) -> AuditEntry:
    return AuditEntry(
        line.number,
        line.at,
        line.who,
        line.where,
        line.tenant,
        line.act,
        line.what,
        line.digest,
        end.outcome,
        end.code,
    )


def _code_of(error: BaseException) -> str:
    """What ended an act, in one word: our code, the system's, or the kind of error."""
    if isinstance(error, EnsembleError):
        return error.code
    if isinstance(error, OSError) and error.errno:
        return errno.errorcode.get(error.errno, "OSError")
    return type(error).__name__
