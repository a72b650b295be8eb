"""The audit log: actor, action, digest, time and origin of every change of the store.

`<state>/audit.jsonl` has one line of canonical JSON for each step. An action starts only after its
first line is on disk; a second line records the outcome. If the second line is missing, the process
died in between, and an operator should inspect the target of the action.

Each line contains the SHA-256 of the line before it, so a changed or removed line in the middle is
detected. A process that can write the file can truncate it or rewrite all of it; only a digest
stored elsewhere reveals that (`verify_audit`).

A line that a crash cut short belongs to an action that had not started. The next writer terminates
it, and readers skip it. The log is bounded: a full file is renamed to the number of its last line,
and the oldest of these files are removed. `audit_history` archives the newest removed lines of each
tenant.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from ensemble.errors import ArtifactError, ArtifactMissing, EnsembleError
from ensemble.store.audit_history import archive_lines, archived_lines
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
FULL_BYTES = 1 << 20  # about three thousand lines; every action reads the current file
# a hundred thousand lines; who manages models can fill them in time, so store a copy elsewhere
MOST_FULL_FILES = 32
LONGEST_TEXT = 200  # characters of who, where and what
_LOCK = ".audit.lock"
_PREFIX, _SUFFIX = "audit-", ".jsonl"


class Action(StrEnum):
    """An audited action on the store, on API keys or on the layers of the service."""

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
    DISABLE_LAYER = "disable_layer"
    ENABLE_LAYER = "enable_layer"
    RESET_LAYER = "reset_layer"
    TEST_LAYER = "test_layer"


class Outcome(StrEnum):
    """Outcome of an action."""

    BEGUN = "begun"
    DONE = "done"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """One audited action.

    Attributes:
        number: of its first line, ascending. An action that failed before it began has one line.
        at: UTC, `2026-11-20T08:15:00Z`, by the clock of the acting process; for display, the
            order is that of the numbers.
        who: name of the actor.
        what: target, e.g. `anomaly-flow/3`, `release 7`.
        digest: SHA-256 of the target, "" if there is none.
        code: of the error that ended it, "" if there was none.
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
    """Result of a verification of the whole log.

    Attributes:
        lines: number of complete lines in the chain.
        first: number of the first line in the log.
        last: number of the last line, 0 if there is none.
        head: SHA-256 of the last line; store it elsewhere and pass it to the next verification.
        torn: number of lines cut short by a crash; none of them is of an action that started.
        problems: what was changed or removed, in words; () if nothing was detected.
    """

    lines: int
    first: int
    last: int
    head: str
    torn: int
    problems: tuple[str, ...]


class AuditedAction:
    """Context manager around one action on a store; writes its first and its last line.

    Args:
        store: its actor, clock and log are used.
        tenant: tenant on whose models or keys the action is, or whose caller acts.
        action: kind of action.
        what: target; `begin` may replace it.
        digest: SHA-256 of the target, if known already; `begin` may replace it.
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
        """Write the first line. Call it before any change that a reader could notice.

        Raises:
            OSError: the disk is full or failing; the action must not proceed.
            ArtifactError: the log is a link or cannot be read; likewise.
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
            return  # the action had nothing to do
        # the action has ended, so an error here changes nothing; its first line is on disk
        with suppress(OSError, ArtifactError):
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
    """Read the newest actions, the last one first.

    Args:
        store: its log is read.
        tenant: only actions on this tenant; None for all tenants.
        limit: maximum number of entries.

    Raises:
        ArtifactError: the log exists but cannot be read.
    """
    while True:
        names = _files(store.state)
        found = _newest(store.state, names, tenant, limit)
        # if the log was rotated meanwhile, a file may have been missed
        if names == _files(store.state):
            return found


def _newest(
    state: Path, names: Sequence[str], tenant: Tenant | None, limit: int
) -> tuple[AuditEntry, ...]:
    # text of the field in each line, to skip other tenants' lines without parsing them
    mark = b'"tenant":' + canonical_json.encode(tenant).rstrip(b"\n") if tenant is not None else b""
    ends: dict[int, _Line] = {}
    entries: dict[int, AuditEntry] = {}
    for text in _newest_texts(state, names, tenant):
        line = _parse(text) if mark in text else None
        if line is None or tenant not in (None, line.tenant):
            continue
        if line.of:
            ends[line.of] = line
            continue
        # a crash during a rotation leaves a line in the log and in the history
        entries.setdefault(line.number, _entry(line, ends.pop(line.number, line)))
        if len(entries) >= limit:
            break
    return tuple(entries.values())


def _newest_texts(state: Path, names: Sequence[str], tenant: Tenant | None) -> Iterator[bytes]:
    """The lines of the log, and then the tenant's archived ones, the newest first."""
    for name in reversed(names):
        yield from reversed(_read(state, name).split(b"\n"))
    if tenant is not None:
        yield from (text.rstrip(b"\n") for text in reversed(archived_lines(state, tenant)))


def verify_audit(store: Store, *, remembered: str = "") -> AuditReport:
    """Verify the hash chain of the whole log.

    Args:
        store: its log is verified.
        remembered: `head` of an earlier report. Its line must still be there, which shows that
            nothing up to it was truncated or rewritten. A head older than the oldest file of the
            log is reported as missing, too.

    Raises:
        ArtifactError: the log exists but cannot be read.
    """
    if not store.state.is_dir():
        return _verified(store.state, remembered)
    # under the lock no line is half written and no file is rotated
    with atomic.exclusive(store.state, _LOCK):
        return _verified(store.state, remembered)


def _verified(state: Path, remembered: str) -> AuditReport:
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
            problems.append(f"{between} a line was changed or removed")
        before, head, lines = line, sha256_of(text + b"\n"), lines + 1
        is_found = is_found or head == remembered
    if not is_found:
        problems.append(
            "the line of the given head is missing: the end of the log was cut off, or the log "
            "was rewritten"
        )
    return AuditReport(lines, first, before.number if before else 0, head, torn, tuple(problems))


@dataclass(frozen=True, slots=True)
class _Line(AuditEntry):
    """A line of the log: an entry, and what links it to other lines."""

    # number of the first line of this action; 0 in a first line, or if the action never began
    of: int
    before: str  # SHA-256 of the line before, with its newline; "" in the first line


@dataclass(frozen=True, slots=True)
class _End:
    """The end of the log."""

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
        archive_lines(state, _read(state, name))
        atomic.remove(state / name)


def _files(state: Path) -> list[str]:
    """List the files of the log, the oldest first."""
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
    rotated = sorted((number, name) for number, name in numbered if number is not None)
    return [name for _, name in rotated] + ([LOG] if LOG in names else [])


def _read(state: Path, name: str) -> bytes:
    try:
        with open_directory(state, what=name) as directory:
            return read_bounded(directory, name, limit=2 * FULL_BYTES, what=name)
    except ArtifactMissing:
        return b""


def _parse(text: bytes) -> _Line | None:
    """Parse a line; None if it is incomplete."""
    try:
        return canonical_json.to_dataclass(
            canonical_json.decode(text + b"\n", what=LOG), _Line, what=LOG
        )
    except ArtifactError:
        return None


def _problems_of_the_first(line: _Line, rotated: int) -> list[str]:
    if line.number == 1 or rotated >= MOST_FULL_FILES:  # older files were removed by rotation
        return [] if line.number > 1 or not line.before else ["line 1 is not the first"]
    return [f"the log begins with line {line.number}: earlier files are missing"]


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
    """Return the code of an error: Axon's, else the system's, else its class."""
    if isinstance(error, EnsembleError):
        return error.code
    if isinstance(error, OSError) and error.errno:
        return errno.errorcode.get(error.errno, "OSError")
    return type(error).__name__
