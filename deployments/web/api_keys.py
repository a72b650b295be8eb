"""API keys and their file: which tenant a key stands for, and what it may be used for.

A key is `axon_<id>_<secret>`. The file holds its SHA-256, never the key, so that a reader of the
file or of a backup cannot use it. A plain hash is right for 256 random bits, which cannot be
guessed however fast they are hashed; a password would need a slow hash. The file is private,
replaced as a whole, and refused as a whole when it is wrong. `axon keys` writes it, and every
ingress reads it, see `key_ring`.
"""

from __future__ import annotations

import hashlib
import math
import os
import re
import secrets
import stat
from base64 import urlsafe_b64encode
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from typing import Final, TypeVar

from ensemble.errors import (
    ArtifactCorrupt,
    ArtifactMissing,
    ArtifactUnreadable,
    ArtifactUntrusted,
)
from ensemble.store import Tenant
from ensemble.store.files import (
    decode,
    encode,
    exclusive,
    make_directory,
    open_directory,
    read_bounded,
    refuse_other_format,
    to_dataclass,
    write_atomic,
)

__all__ = [
    "NO_KEY",
    "SECRET_BYTES",
    "TOKEN",
    "WHAT",
    "Key",
    "KeyRefused",
    "Scope",
    "create_key",
    "find_key",
    "hash_token",
    "list_keys",
    "parse_keys",
    "read_key_file",
    "revoke_key",
]

WHAT: Final = "the key file"
FORMAT: Final = 1
LIMIT_BYTES = 1 << 20  # some three thousand keys
SECRET_BYTES = 32  # 256 bits: out of reach of guessing, so a fast hash keeps it
FORGET_AFTER_S = (
    400 * 86400.0
    # a key that has been dead for more than a year is of no audit's interest, and the file is
    # bounded
)
Answer = TypeVar("Answer")
_ID = re.compile(r"[0-9a-f]{8}")
TOKEN = re.compile(r"axon_([0-9a-f]{8})_[A-Za-z0-9_-]{43}")
_NAME = re.compile(r"(?:[A-Za-z0-9][A-Za-z0-9 ._@:-]{0,62})?")
_SHA256 = re.compile(r"[0-9a-f]{64}")


class Scope(StrEnum):
    """What a key may be used for."""

    SCORE = "score"  # ask for verdicts
    TRAIN = "train"  # start and stop training jobs
    MANAGE = "manage"  # promote, delete, switch layers
    READ = "read"  # look at models, jobs and status


class KeyRefused(Exception):
    """What was asked of the key file cannot be done.

    The sentence says why, and never holds a key.
    """


@dataclass(frozen=True, slots=True)
class Key:
    """One key, as it is kept.

    Attributes:
        id: 8 hexadecimal digits, the public part of the key; it names the key in lists and logs.
        name: for people, may be empty.
        tenant: in whose name the holder asks; nothing in a request can change it.
        scopes: what it may be used for, at least one.
        sha256: of the whole key, 64 hexadecimal digits.
        created_at: seconds since 1970, as the next two.
        expires_at: from then on it is refused; None for never.
        revoked_at: when it was taken back, for good; None while it was not.
    """

    id: str
    name: str
    tenant: Tenant
    scopes: frozenset[Scope]
    sha256: str = field(repr=False)
    created_at: float
    expires_at: float | None
    revoked_at: float | None

    def __post_init__(self) -> None:
        if not _ID.fullmatch(self.id) or not _SHA256.fullmatch(self.sha256):
            raise ValueError("an id is 8 and a sha256 64 hexadecimal digits")
        if not _NAME.fullmatch(self.name):
            raise ValueError(
                "a name is at most 63 letters, digits, blanks and . _ @ : -, beginning with "
                "a letter or a digit"
            )
        if not self.scopes:
            raise ValueError("a key without a scope opens nothing")
        times = [at for at in (self.created_at, self.expires_at, self.revoked_at) if at is not None]
        if not all(math.isfinite(at) and at >= 0 for at in times):
            raise ValueError("a time is seconds since 1970")

    def is_expired(self, now: float) -> bool:
        """Whether its time is over at `now`, seconds since 1970."""
        return self.expires_at is not None and now >= self.expires_at

    def has_been_dead_for(self, now: float) -> float:
        """Seconds since it opened something; 0 or less while it does."""
        ends = [at for at in (self.expires_at, self.revoked_at) if at is not None]
        return now - min(ends) if ends else 0.0


# Compared with a token whose id is unknown, so that the refusal takes the same time. No key has
# this hash.
NO_KEY = Key("00000000", "", Tenant("nobody"), frozenset({Scope.READ}), "0" * 64, 0.0, 0.0, 0.0)


def create_key(
    path: Path,
    tenant: Tenant,
    scopes: Iterable[Scope],
    name: str,
    expires_at: float | None,
    now: float,
    *,
    before: Callable[[Key], None] = lambda _: None,
) -> tuple[Key, str]:
    """Make a key and keep its hash, on the disk before this returns.

    Keys that have been expired or revoked for more than a year are forgotten on the way.

    Args:
        path: the key file; made, with its folder, where it is not there.
        tenant: in whose name the holder will ask.
        scopes: what it may be used for.
        name: for people; may be empty.
        expires_at: seconds since 1970; None for never.
        now: seconds since 1970.
        before: called with the key before anybody could use it; where it raises, there is none.

    Returns:
        The key as it is kept, and the key itself, which nobody can ever tell again.

    Raises:
        KeyRefused: a bad name, no scope, a time that is over; too many keys; or the file cannot
            be written.
        ArtifactError: the file that is there is wrong, or others may read or write it; nothing
            is changed.
    """
    if expires_at is not None and expires_at <= now:
        raise KeyRefused("a key that is expired from the beginning opens nothing")
    secret = urlsafe_b64encode(secrets.token_bytes(SECRET_BYTES)).decode().rstrip("=")

    def with_it(keys: Sequence[Key]) -> tuple[list[Key], tuple[Key, str]]:
        taken = {key.id for key in keys} | {NO_KEY.id}
        new_id = next(
            drawn for drawn in iter(lambda: secrets.token_hex(4), "") if drawn not in taken
        )
        token = f"axon_{new_id}_{secret}"
        try:
            made = Key(
                new_id, name, tenant, frozenset(scopes), hash_token(token), now, expires_at, None
            )
        except ValueError as refused:
            raise KeyRefused(str(refused)) from None
        before(made)
        return [*(key for key in keys if key.has_been_dead_for(now) <= FORGET_AFTER_S), made], (
            made,
            token,
        )

    return _change(path, with_it)


def list_keys(path: Path) -> tuple[Key, ...]:
    """Every key of the file, the oldest first; none where there is no file.

    Raises:
        ArtifactError: the file is wrong, or others may read or write it.
    """
    return tuple(sorted(_read_or_nothing(path), key=lambda key: (key.created_at, key.id)))


def find_key(path: Path, key_id: str) -> Key:
    """The key with an id, whether or not it still opens anything.

    Arguments and errors as of `revoke_key`.
    """
    return _known(_read_or_nothing(path), key_id)


def revoke_key(path: Path, key_id: str, now: float) -> Key:
    """Revoke a key for good; it is on disk before this returns, and services follow in seconds.

    Args:
        path: the key file.
        key_id: 8 hexadecimal digits. It is not repeated in errors: people paste whole keys.
        now: seconds since 1970. A key that was revoked before keeps the time of the first.

    Raises:
        KeyRefused: there is no such key, or the file cannot be written.
        ArtifactError: the file that is there is wrong, or others may read or write it; nothing
            is changed.
    """

    def without_it(keys: Sequence[Key]) -> tuple[list[Key], Key]:
        known = _known(keys, key_id)
        revoked = known if known.revoked_at is not None else replace(known, revoked_at=now)
        return [*(key for key in keys if key.id != key_id), revoked], revoked

    find_key(path, key_id)  # no folder, lock or file is made for an id that nobody has
    return _change(path, without_it)


def _known(keys: Sequence[Key], key_id: str) -> Key:
    known = next((key for key in keys if key.id == key_id), None)
    if known is None:
        raise KeyRefused("there is no key with that id; `axon keys list` shows the ids")
    return known


def _change(path: Path, change: Callable[[Sequence[Key]], tuple[list[Key], Answer]]) -> Answer:
    """Replace the keys of the file; `change` is called once, holding the lock."""
    try:
        make_directory(path.parent)
        with exclusive(path.parent):
            keys, answer = change(_read_or_nothing(path))
            data = _encode(keys)
            if len(data) > LIMIT_BYTES:
                raise KeyRefused(
                    f"the key file would be {len(data):,} bytes with one key more, readers "
                    f"take {LIMIT_BYTES:,}"
                )
            write_atomic(path.parent, path, data, mode=0o600)
    except OSError as problem:
        raise KeyRefused(
            f"the key file cannot be written: {os.strerror(problem.errno or 0).lower()}"
        ) from None
    return answer


def hash_token(token: str) -> str:
    """Hash a key as the key file holds it."""
    return hashlib.sha256(token.encode()).hexdigest()


# -- the file


@dataclass(frozen=True, slots=True)
class _Entry:
    id: str
    name: str
    tenant: Tenant
    scopes: list[Scope]
    sha256: str
    created_at: float
    expires_at: float | None
    revoked_at: float | None


@dataclass(frozen=True, slots=True)
class _KeyFile:
    format: int
    keys: list[_Entry]


def _read_or_nothing(path: Path) -> tuple[Key, ...]:
    try:
        return parse_keys(read_key_file(path))
    except ArtifactMissing:
        return ()


def read_key_file(path: Path) -> bytes:
    """What is in the file.

    Raises:
        ArtifactMissing: it is not there.
        ArtifactUntrusted: others may read or write it.
        ArtifactError: it is no plain file of a bounded length, or the system will not give it.
    """
    with open_directory(path.parent, what=WHAT) as directory:
        _refuse_unless_private(directory, path.name)
        return read_bounded(directory, path.name, limit=LIMIT_BYTES, what=WHAT)


def _refuse_unless_private(directory: int, name: str) -> None:
    try:
        found = os.stat(name, dir_fd=directory, follow_symlinks=False)
    except FileNotFoundError:
        raise ArtifactMissing(WHAT) from None
    except OSError as error:
        raise ArtifactUnreadable(
            WHAT, f"is there, but cannot be looked at ({type(error).__name__})"
        ) from None
    if (
        stat.S_ISREG(found.st_mode) and stat.S_IMODE(found.st_mode) & 0o077
    ):  # what is no file is refused by who reads it
        raise ArtifactUntrusted(
            WHAT, f"others may read or write it: `chmod 600 {name}`, and ask who has added a key"
        )


def _encode(keys: Iterable[Key]) -> bytes:
    listed = [
        {
            "id": key.id,
            "name": key.name,
            "tenant": key.tenant,
            "scopes": sorted(key.scopes),
            "sha256": key.sha256,
            "created_at": float(key.created_at),
            "expires_at": None if key.expires_at is None else float(key.expires_at),
            "revoked_at": None if key.revoked_at is None else float(key.revoked_at),
        }
        for key in sorted(keys, key=lambda key: key.id)
    ]
    return encode({"format": FORMAT, "keys": listed})


def parse_keys(data: bytes) -> tuple[Key, ...]:
    """The keys that the file spells, by id.

    Raises:
        ArtifactError: it is not what `_change` writes.
    """
    value = decode(data, what=WHAT)
    refuse_other_format(value, FORMAT, what=WHAT)
    entries = to_dataclass(value, _KeyFile, what=WHAT).keys
    ids = [entry.id for entry in entries]
    if ids != sorted(set(ids)):
        raise ArtifactCorrupt(WHAT, "has an id twice, or not in order")
    return tuple(_key(entry) for entry in entries)


def _key(entry: _Entry) -> Key:
    scopes = frozenset(entry.scopes)
    if entry.scopes != sorted(scopes):
        raise ArtifactCorrupt(WHAT, "has a scope twice, or not in order")
    try:
        return Key(
            entry.id,
            entry.name,
            entry.tenant,
            scopes,
            entry.sha256,
            entry.created_at,
            entry.expires_at,
            entry.revoked_at,
        )
    except ValueError as refused:
        raise ArtifactCorrupt(WHAT, str(refused)) from None
