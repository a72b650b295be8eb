"""The model store with the current trust list.

The trust list is read again when its file changes, so that an added or removed key takes effect
without a restart. A list that cannot be read changes nothing.
"""

from __future__ import annotations

import logging
from collections.abc import Hashable

from pydantic import ValidationError

from deployments.config.settings import Settings
from deployments.config.trust import read_trust
from deployments.observability import log_event
from ensemble.store import NO_TRUST, Store, Trust
from ensemble.store.files import file_fingerprint

__all__ = ["TrustedStore"]


class TrustedStore:
    """Opens the store of `settings`; it trusts nothing before the first trust list was read."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        # one value, so that a thread never sees the list of one file with the print of another
        self._read: tuple[Hashable, Trust] = (None, NO_TRUST)

    def __call__(self) -> Store:
        """Open the store with the trust list as it is now."""
        fingerprint = file_fingerprint(self._settings.trust)
        known, trust = self._read
        if fingerprint != known:
            try:
                trust = read_trust(self._settings)
            except ValidationError as refused:
                log_event(
                    logging.ERROR,
                    "trust_list_refused",
                    {"mistakes": [error["msg"] for error in refused.errors()]},
                )
            self._read = fingerprint, trust
        return Store(self._settings.state, self._settings.shipped, trust)
