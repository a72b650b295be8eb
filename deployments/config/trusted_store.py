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
from deployments.observability.log import log_event
from ensemble.store import Store, Trust

__all__ = ["TrustedStore"]


class TrustedStore:
    """Opens the store of `settings`; until a trust list could be read it trusts nothing."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._known: tuple[Hashable, Trust] = (
            None,
            Trust({}, frozenset()),
        )  # replaced whole: several threads look

    def __call__(self) -> Store:
        """The store, with the trust list as it lies on the disk now."""
        seen = self._look()
        known, trust = self._known
        if seen != known:
            try:
                trust = read_trust(self._settings)
            except ValidationError as refused:
                log_event(
                    logging.ERROR,
                    "trust_list_refused",
                    {"mistakes": [error["msg"] for error in refused.errors()]},
                )
            self._known = seen, trust
        return Store(self._settings.state, self._settings.shipped, trust)

    def _look(self) -> Hashable:
        try:
            found = self._settings.trust.stat()
        except OSError as error:
            return error.errno
        return found.st_size, found.st_ino, found.st_mtime_ns, found.st_ctime_ns
