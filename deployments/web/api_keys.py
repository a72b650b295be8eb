"""API keys and their file: which tenant a key stands for, and what it may be used for.

A key is `axon_<id>_<secret>`. The file holds its SHA-256, never the key, so that a reader of the
file or of a backup cannot use it. A plain hash suffices for 256 random bits, which cannot be
guessed; a password would need a slow hash. The file is private, replaced as a whole, and refused
as a whole if any part is wrong. `axon keys` writes it, and every ingress reads it, see `key_ring`.
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
SECRET_BYTES = 32  # 256 bits cannot be guessed, so a fast hash is enough
# a key that expired or was revoked more than a year ago concerns no audit, and the file is bounded
FORGET_AFTER_S = 400 * 86400.0
Answer = TypeVar("Answer")
_ID = re.compile(r"[0-9a-f]{8}")
TOKEN = re.compile(r"axon_([0-9a-f]{8})_[A-Za-z0-9_-]{43}")
_NAME = re.compile(r"(?:[A-Za-z0-9][A-Za-z0-9 ._@:-]{0,62})?")
_SHA256 = re.compile(r"[0-9a-f]{64}")


class Scope(StrEnum):
    """A set of routes that a key may be used for."""

    SCORE = "score"  # request verdicts
    TRAIN = "train"  # start and stop training jobs
    MANAGE = "manage"  # promote and delete the models of the tenant
    OPERATE = "operate"  # disable, enable, reset and test the layers, for all tenants
    READ = "read"  # read models, jobs and status


class KeyRefused(Exception):
    """A change of the key file is refused; the sentence says why, and never contains a key."""


@dataclass(frozen=True, slots=True)
class Key:
    """One key as it is stored; times are seconds since 1970.

    Attributes:
        id: 8 hexadecimal digits, the public part of the key; it names the key in lists and logs.
        name: for people, may be empty.
        tenant: tenant that the caller acts for; nothing in a request can change it.
        scopes: what the key may be used for, at least one scope.
        sha256: SHA-256 of the whole key, 64 hexadecimal digits.
        created_at: time of creation.
        expires_at: from then on the key is refused; None for never.
        revoked_at: time of the revocation, which is permanent; None for a key that is not revoked.
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
            raise ValueError("a key needs at least one scope")
        times = [at for at in (self.created_at, self.expires_at, self.revoked_at) if at is not None]
        if not all(math.isfinite(at) and at >= 0 for at in times):
            raise ValueError("a time is seconds since 1970")

    def is_expired(self, now: float) -> bool:
        """Whether the key has expired at `now`, seconds since 1970."""
        return self.expires_at is not None and now >= self.expires_at

    def seconds_invalid(self, now: float) -> float:
        """Seconds since the key expired or was revoked; 0 or less while it is valid."""
        ends = [at for at in (self.expires_at, self.revoked_at) if at is not None]
        return now - min(ends) if ends else 0.0


# A token with an unknown id is compared with this one, so that the refusal takes the same time. No
# key has this hash.
NO_KEY = Key("00000000", "", Tenant("none"), frozenset({Scope.READ}), "0" * 64, 0.0, 0.0, 0.0)


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
    """Make a key and store its hash; it is on disk before this returns.

    Keys that expired or were revoked more than a year ago are removed from the file.

    Args:
        path: the key file; it is made, with its folder, if it does not exist.
        tenant: tenant that the caller will act for.
        scopes: what the key may be used for.
        name: for people; may be empty.
        expires_at: seconds since 1970; None for never.
        now: seconds since 1970.
        before: called with the key before it is stored; if it raises, no key is made.

    Returns:
        The key as it is stored, and its token, which cannot be recovered later.

    Raises:
        KeyRefused: a bad name, no scope, an expiry in the past, too many keys, or a file that
            cannot be written.
        ArtifactError: the present file is wrong, or other users may read or write it; nothing is
            changed.
    """
    if expires_at is not None and expires_at <= now:
        raise KeyRefused("the expiry of a new key must be in the future")
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
        return [*(key for key in keys if key.seconds_invalid(now) <= FORGET_AFTER_S), made], (
            made,
            token,
        )

    return _change(path, with_it)


def list_keys(path: Path) -> tuple[Key, ...]:
    """List every key of the file, oldest first; none if there is no file.

    Raises:
        ArtifactError: the file is wrong, or other users may read or write it.
    """
    return tuple(sorted(_read_or_nothing(path), key=lambda key: (key.created_at, key.id)))


def find_key(path: Path, key_id: str) -> Key:
    """Find the key with an id, valid or not.

    Arguments and errors are those of `revoke_key`.
    """
    return _known(_read_or_nothing(path), key_id)


def revoke_key(path: Path, key_id: str, now: float) -> Key:
    """Revoke a key for good; it is on disk before this returns, and services follow in seconds.

    Args:
        path: the key file.
        key_id: 8 hexadecimal digits. Errors do not repeat it: people paste whole keys.
        now: seconds since 1970. A key that is revoked already keeps its time of revocation.

    Raises:
        KeyRefused: there is no such key, or the file cannot be written.
        ArtifactError: the present file is wrong, or other users may read or write it; nothing is
            changed.
    """

    def without_it(keys: Sequence[Key]) -> tuple[list[Key], Key]:
        known = _known(keys, key_id)
        revoked = known if known.revoked_at is not None else replace(known, revoked_at=now)
        return [*(key for key in keys if key.id != key_id), revoked], revoked

    find_key(path, key_id)  # an unknown id makes no folder, lock or file
    return _change(path, without_it)


def _known(keys: Sequence[Key], key_id: str) -> Key:
    known = next((key for key in keys if key.id == key_id), None)
    if known is None:
        raise KeyRefused("there is no key with that id; `axon keys list` shows the ids")
    return known


def _change(path: Path, change: Callable[[Sequence[Key]], tuple[list[Key], Answer]]) -> Answer:
    """Replace the keys of the file; calls `change` once, under the lock."""
    try:
        make_directory(path.parent)
        with exclusive(path.parent):
            keys, answer = change(_read_or_nothing(path))
            data = _encode(keys)
            if len(data) > LIMIT_BYTES:
                raise KeyRefused(
                    f"the key file would have {len(data):,} bytes with one more key; the limit is "
                    f"{LIMIT_BYTES:,}"
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
    """Read the key file.

    Raises:
        ArtifactMissing: there is none.
        ArtifactUntrusted: other users may read or write it.
        ArtifactError: it is not a plain file of bounded length, or cannot be read.
    """
    with open_directory(path.parent, what=WHAT) as directory:
        _require_private(directory, path.name)
        return read_bounded(directory, path.name, limit=LIMIT_BYTES, what=WHAT)


def _require_private(directory: int, name: str) -> None:
    try:
        found = os.stat(name, dir_fd=directory, follow_symlinks=False)
    except FileNotFoundError:
        raise ArtifactMissing(WHAT) from None
    except OSError as error:
        raise ArtifactUnreadable(
            WHAT, f"exists, but cannot be examined ({type(error).__name__})"
        ) from None
    # anything but a plain file is refused when it is read
    if stat.S_ISREG(found.st_mode) and stat.S_IMODE(found.st_mode) & 0o077:
        raise ArtifactUntrusted(
            WHAT,
            f"other users may read or write it: run `chmod 600 {name}`, and check its keys with "
            "`axon keys list`",
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
    """Parse a key file into its keys, in the order of their ids.

    Raises:
        ArtifactError: the content is not what `_change` writes.
    """
    value = decode(data, what=WHAT)
    refuse_other_format(value, FORMAT, what=WHAT)
    entries = to_dataclass(value, _KeyFile, what=WHAT).keys
    ids = [entry.id for entry in entries]
    if ids != sorted(set(ids)):
        raise ArtifactCorrupt(WHAT, "has a repeated id, or ids out of order")
    return tuple(_key(entry) for entry in entries)


def _key(entry: _Entry) -> Key:
    scopes = frozenset(entry.scopes)
    if entry.scopes != sorted(scopes):
        raise ArtifactCorrupt(WHAT, "has a repeated scope, or scopes out of order")
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
