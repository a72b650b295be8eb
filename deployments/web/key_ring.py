"""The valid keys in memory, as the key file had them last.

The file is read beside the requests, never in one.
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
"""Read the file again after so long, changed or not: a network disk may report no change for a
while."""


class KeyRing:
    """The keys that authenticate requests.

    Made without reading the file: until the first `reload` every key is refused.

    Args:
        path: absolute place of the key file; need not be there.
        now: the wall clock, seconds since 1970; it decides what is expired.
        clock: a monotonic one, seconds; it decides when the file is read again.
    """

    def __init__(
        self,
        path: Path,
        *,
        now: Callable[[], float] = time.time,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._path, self._now, self._clock = path, now, clock
        self._keys: Mapping[
            str, Key
        ] = {}  # by id, without those that were revoked; replaced whole, by whatever thread looks
        self._fingerprinted: Hashable = (
            None  # how the file lay there when it was read whole; None to read it at the next look
        )
        self._read_at = -math.inf
        self._data: bytes | None = None  # what the keys were read from; None before the first time
        self._problem = ""

    @property
    def is_empty(self) -> bool:
        """Whether there is no key that was not revoked."""
        return not self._keys

    def find(self, token: str) -> Key | None:
        """Return the key that `token` spells; None for an unknown, wrong, expired or revoked one.

        Touches no disk, and costs the same whatever the token is: one hash of a short text, one
        comparison, one reading of the clock.
        """
        formed = (
            TOKEN.fullmatch(token) if len(token) < 2 * SECRET_BYTES else None
        )  # a key is 57 characters; a mebibyte is not looked at
        key = self._keys.get(formed[1], NO_KEY) if formed else NO_KEY
        is_it = hmac.compare_digest(hash_token(token if formed else ""), key.sha256)
        is_over = key.is_expired(self._now())
        return key if is_it and not is_over else None

    def reload(self) -> None:
        """Read the file again if it changed; blocks on the disk.

        Call it in a thread, one call at a time, every second. If the file cannot be read, the keys
        stay as they were and the problem is logged once: a disk error must not lock every caller
        out, and a key is withdrawn by revoking it, not by removing the file.
        """
        try:
            fingerprint = file_fingerprint(self._path)
            at = self._clock()
            if fingerprint == self._fingerprinted and at - self._read_at < READ_AGAIN_S:
                return
            data = read_key_file(self._path)
            if (
                data != self._data
                # three thousand keys take half a second of the interpreter: not every minute for
                # nothing
            ):
                self._keys = {key.id: key for key in parse_keys(data) if key.revoked_at is None}
        except ArtifactError as error:
            self._fingerprinted = None
            self._log_problem(error)
            return
        is_news = data != self._data or bool(self._problem)
        self._data, self._fingerprinted, self._read_at, self._problem = data, fingerprint, at, ""
        if is_news:
            log_event(logging.INFO, "keys_read", {"keys": len(self._keys)})

    def _log_problem(self, error: ArtifactError) -> None:
        if error.code == self._problem:
            return
        self._problem = error.code
        action = "admitting_nobody" if self._data is None else "keeping_keys_of_before"
        sentence = "there is no key file" if isinstance(error, ArtifactMissing) else str(error)
        log_event(
            logging.ERROR,
            "keys_unreadable",
            {"code": error.code, "cause": error.cause, "error": sentence, "action": action},
        )
