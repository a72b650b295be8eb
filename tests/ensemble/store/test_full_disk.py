"""A full disk (F20): whichever write it stops, no file is lost and none is visible half done."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import pytest

from ensemble.store.audit_log import verify_audit
from ensemble.store.bundles.list import list_bundles
from ensemble.store.bundles.open import open_bundle
from ensemble.store.layout import Store
from ensemble.store.names import BundleRef, ModelName, ReleaseRef, Tenant
from ensemble.store.operations.archive import export_release, import_archive
from ensemble.store.operations.deletion import apply_retention, delete_release
from ensemble.store.operations.quarantine import list_quarantine, quarantine_bundle
from ensemble.store.releases.aliases import (
    Alias,
    get_challenger,
    promote_challenger,
    read_challenger,
    set_challenger,
    set_model_alias,
)
from ensemble.store.releases.list import list_releases
from ensemble.store.releases.pointer import read_pointer
from ensemble.store.releases.release import promote, publish_release, roll_back
from ensemble.store.releases.release_file import read_release
from ensemble.store.signing import Signer

MODEL, BANKS = ModelName("anomaly-flow"), Tenant("banks")
ACTS = [
    "publish a release",
    "promote",
    "roll back",
    "set a challenger",
    "promote the challenger",
    "set a champion",
    "delete a release",
    "retention",
    "quarantine",
    "import",
]


class Filling:
    """A disk that fills in the middle of the k-th write; later writes fail, too."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._monkeypatch = monkeypatch

    def stops(self, k: int, act: Callable[[], object]) -> bool:
        """Whether the full disk stopped `act`."""
        left, honest = k, os.write

        def filling(fd: int, data: bytes) -> int:
            nonlocal left
            left -= 1
            if left < -1:
                raise OSError(errno.ENOSPC, "No space left on device")
            return honest(fd, data if left >= 0 else bytes(data)[: len(data) // 2])

        with self._monkeypatch.context() as patch:
            patch.setattr(os, "write", filling)
            try:
                act()
            except OSError as problem:
                # whether it raises depends on k
                assert problem.errno == errno.ENOSPC  # noqa: PT017
                return True
        return False


@pytest.fixture
def acts(
    store: Store,
    acme: Tenant,
    two_releases: tuple[ReleaseRef, ReleaseRef],
    signer: Signer,
    now: datetime,
    publish: Callable[..., BundleRef],
) -> dict[str, Callable[[], object]]:
    """Return all writing operations, for a store where release 2 serves and version 3 is unused."""
    one, two = two_releases
    promote(store, acme, one, 0, signer=signer)
    promote(store, acme, two, 1, signer=signer)
    spare = publish(store)
    third = publish_release(store, acme, [spare], {}, notes="", now=now, signer=signer)
    for _ in range(2):
        publish(store)  # retention deletes one of them
    set_challenger(store, acme, one, 0, signer=signer)
    data = export_release(store, acme, one)
    return {
        "publish a release": lambda: publish_release(
            store, acme, [spare], {}, notes="", now=now, signer=signer
        ),
        "promote": lambda: promote(store, acme, third, 2, signer=signer),
        "roll back": lambda: roll_back(store, acme, 2, signer=signer),
        "set a challenger": lambda: set_challenger(store, acme, third, 1, signer=signer),
        "promote the challenger": lambda: promote_challenger(
            store,
            acme,
            get_challenger(store, acme),
            read_pointer(store, acme).serial,
            signer=signer,
        ),
        "set a champion": lambda: set_model_alias(
            store, acme, MODEL, Alias.CHAMPION, spare, 0, signer=signer
        ),
        "delete a release": lambda: delete_release(store, acme, third.serial),
        "retention": lambda: apply_retention(store, acme, newest=1),
        "quarantine": lambda: quarantine_bundle(
            store, acme, MODEL, spare.version, "", even_in_use=False
        ),
        "import": lambda: import_archive(store, BANKS, data, now=now, signer=signer, quota=None),
    }


@pytest.mark.parametrize("act", ACTS)
def test_a_disk_that_fills_at_any_write_loses_nothing(
    store: Store,
    acme: Tenant,
    acts: dict[str, Callable[[], object]],
    monkeypatch: pytest.MonkeyPatch,
    act: str,
) -> None:
    """F20: the serving release and the challenger load, lists are complete, staging is empty.

    With room again the operation succeeds.
    """
    disk = Filling(monkeypatch)
    stopped = 0
    while disk.stops(stopped, acts[act]):
        stopped += 1
        for ref in (read_pointer(store, acme).ref, read_challenger(store, acme)):
            for bundle in read_release(store, acme, ref).bundles.values() if ref else ():
                open_bundle(store, bundle)
        listed = [
            one
            for tenant in (acme, BANKS)
            for one in (*list_bundles(store, tenant), *list_releases(store, tenant))
        ]
        assert [one.problem for one in listed] == [""] * len(listed)
        assert [one for one in list_quarantine(store, acme) if one.problem] == []
        assert _leftovers(store.state) == []
        assert verify_audit(store).problems == ()

    assert stopped >= 2, "the audit line and what it is about"


def _leftovers(state: Path) -> list[Path]:
    return list((state / ".staging").iterdir())
