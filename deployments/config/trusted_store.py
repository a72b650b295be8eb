"""The store of this machine as it is trusted now.

The trust list is read again when its file changes: a key that is added heals what was refused for
it, one that is taken away is gone, both without a restart. A list that cannot be read changes
nothing, as with everything else that breaks while it serves.
"""

from __future__ import annotations

import logging
from collections.abc import Hashable

from pydantic import ValidationError

from deployments.config.settings import Settings
from deployments.config.trust import read_trust
from deployments.observability import log_event
from ensemble.store import Store, Trust
from ensemble.store.files import file_fingerprint

__all__ = ["TrustedStore"]


class TrustedStore:
    """Opens the store of `settings`; until a trust list could be read it trusts nothing."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        # one value, so that a thread never sees the list of one file with the print of another
        self._read: tuple[Hashable, Trust] = (None, Trust({}, frozenset()))

    def __call__(self) -> Store:
        """The store, with the trust list as it lies on the disk now."""
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
