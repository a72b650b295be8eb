"""The valid API keys in memory, as last read from the key file.

A background task reads the file; no request waits for it.
"""

from __future__ import annotations

import hmac
import logging
import math
import time
from collections.abc import Callable, Hashable, Mapping
from pathlib import Path

from deployments.observability import log_event
from deployments.web.api_keys import (
    NO_KEY,
    SECRET_BYTES,
    TOKEN,
    Key,
    hash_token,
    parse_keys,
    read_key_file,
)
from ensemble.errors import ArtifactError, ArtifactMissing
from ensemble.store.files import file_fingerprint

__all__ = ["KeyRing"]

READ_AGAIN_S = 60.0
"""Read the file again after so long even if it looks unchanged: a network disk may report a change
late."""


class KeyRing:
    """The keys that authenticate requests.

    The constructor does not read the file: until the first `reload` every key is refused.

    Args:
        path: absolute path of the key file, which need not exist.
        now: wall clock, seconds since 1970; decides which keys are expired.
        clock: monotonic clock, seconds; decides when the file is read again.
    """

    def __init__(
        self,
        path: Path,
        *,
        now: Callable[[], float] = time.time,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._path, self._now, self._clock = path, now, clock
        self._tenants: frozenset[str] = frozenset()
        # id -> key, without revoked ones; replaced as a whole, by the thread that reloads
        self._keys: Mapping[str, Key] = {}
        # of the file that was read last; None to read it at the next `reload`
        self._fingerprint: Hashable = None
        self._read_at = -math.inf
        self._data: bytes | None = None  # content that was read last; None before the first read
        self._problem = ""

    def find(self, token: str) -> Key | None:
        """Return the key that `token` spells; None for an unknown, wrong, expired or revoked one.

        Touches no disk, and costs the same whatever the token is: one hash of a short text, one
        comparison, one reading of the clock.
        """
        # a key has 57 characters; no pattern is matched against a longer text
        formed = TOKEN.fullmatch(token) if len(token) < 2 * SECRET_BYTES else None
        key = self._keys.get(formed[1], NO_KEY) if formed else NO_KEY
        is_equal = hmac.compare_digest(hash_token(token if formed else ""), key.sha256)
        is_expired = key.is_expired(self._now())
        return key if is_equal and not is_expired else None

    @property
    def tenants(self) -> frozenset[str]:
        """The tenants that have a key; a key that expired counts."""
        return self._tenants

    def reload(self) -> None:
        """Read the file again if it changed; blocks on the disk.

        Call it in a thread, one call at a time, every second. If the file cannot be read, the keys
        stay as they were and the problem is logged once: a disk error must not lock every caller
        out, and a key is withdrawn by revoking it, not by removing the file.
        """
        try:
            fingerprint = file_fingerprint(self._path)
            at = self._clock()
            if fingerprint == self._fingerprint and at - self._read_at < READ_AGAIN_S:
                return
            data = read_key_file(self._path)
            if data != self._data:  # parsing three thousand keys takes half a second
                self._keys = {key.id: key for key in parse_keys(data) if key.revoked_at is None}
                self._tenants = frozenset(key.tenant for key in self._keys.values())
        except ArtifactError as error:
            self.log_problem(error)
            return
        is_changed = data != self._data or bool(self._problem)
        self._data, self._fingerprint, self._read_at, self._problem = data, fingerprint, at, ""
        if is_changed:
            log_event(logging.INFO, "keys_read", {"keys": len(self._keys)})

    def log_problem(self, error: Exception) -> None:
        """Log that the keys could not be read, once and on change; the next reload reads again."""
        self._fingerprint = None
        # the text of an unexpected error may contain a part of the file, so only its type is logged
        code, cause, sentence = "INTERNAL_ERROR", "", type(error).__name__
        if isinstance(error, ArtifactError):
            is_missing = isinstance(error, ArtifactMissing)
            code, cause = error.code, error.cause
            sentence = "there is no key file" if is_missing else str(error)
        if code == self._problem:
            return
        self._problem = code
        action = "refusing_all_keys" if self._data is None else "keeping_previous_keys"
        log_event(
            logging.ERROR,
            "keys_unreadable",
            {"code": code, "cause": cause, "error": sentence, "action": action},
        )
