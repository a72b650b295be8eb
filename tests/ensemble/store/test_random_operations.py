"""Random operations and crashes on the store, as a Hypothesis state machine.

After each step the serving release loads, and no number has been used twice.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from ensemble.errors import ArtifactInUse, ArtifactMissing
from ensemble.model import Parts
from ensemble.store.audit_log import read_audit, verify_audit
from ensemble.store.bundles.codecs import Golden
from ensemble.store.bundles.list import list_bundles
from ensemble.store.bundles.open import open_bundle
from ensemble.store.bundles.publish import publish_bundle
from ensemble.store.files.atomic import sweep_staging
from ensemble.store.layout import Store
from ensemble.store.names import BundleRef, ModelName, ReleaseRef, Tenant
from ensemble.store.operations.archive import export_bundle, import_archive
from ensemble.store.operations.deletion import apply_retention, delete_bundle, delete_release
from ensemble.store.operations.quarantine import quarantine_bundle
from ensemble.store.releases.aliases import (
    Alias,
    clear_challenger,
    get_alias,
    get_challenger,
    promote_challenger,
    read_challenger,
    read_model_alias,
    set_challenger,
    set_model_alias,
)
from ensemble.store.releases.list import list_releases
from ensemble.store.releases.pointer import read_pointer
from ensemble.store.releases.release import promote, publish_release, roll_back
from ensemble.store.releases.release_file import read_release
from ensemble.store.signing import Signer, Trust
from tests.support.publishing import NOW, TRAINING

ACME, LENDER = Tenant("a"), Tenant("a_b")
MODELS = (ModelName("m"), ModelName("m_1"))
CHANGES = (
    "open",
    "write",
    "fsync",
    "fchmod",
    "mkdir",
    "chmod",
    "rename",
    "replace",
    "unlink",
    "rmdir",
)
LONG = settings.default is not None and settings.default.max_examples > 1000


class Death(BaseException):
    """Crash of the process before its next change to the disk; its cleanup does not run either."""


@contextlib.contextmanager
def dying_at(k: int | None) -> Iterator[None]:
    """Crash at the k-th change to the disk and at every later one; never for None."""
    if k is None:
        yield
        return
    left = k

    def watched(name: str, honest: Callable[..., Any]) -> Callable[..., Any]:
        def change(*args: Any, **kwargs: Any) -> Any:
            nonlocal left
            if name == "open" and not args[1] & os.O_CREAT:
                return honest(*args, **kwargs)
            if left == 0:
                raise Death
            left -= 1
            return honest(*args, **kwargs)

        return change

    with pytest.MonkeyPatch.context() as patch:
        for name in CHANGES:
            patch.setattr(os, name, watched(name, getattr(os, name)))
        patch.setattr(fcntl, "flock", watched("flock", fcntl.flock))
        with contextlib.suppress(Death):
            yield


deaths = st.none() | st.integers(0, 60)
picks = st.integers(0, 100)


class StoreMachine(RuleBasedStateMachine):
    """Two tenants, two models; the one tenant may use the other's bundles."""

    def __init__(self) -> None:
        super().__init__()
        self.signer = Signer.new()
        self.store = Store(
            Path(tempfile.mkdtemp(prefix="axon-machine")),
            None,
            Trust({self.signer.key_id: self.signer.public}, frozenset()),
        )
        self.digests: dict[tuple[str, str, int], str] = {}  # digest first read under each number
        self.highest = 0
        self.value = 0.0

    def teardown(self) -> None:
        shutil.rmtree(self.store.state)

    def known_bundles(self) -> list[BundleRef]:
        return [one.ref for tenant in (ACME, LENDER) for one in list_bundles(self.store, tenant)]

    def known_releases(self) -> list[ReleaseRef]:
        return [one.ref for one in list_releases(self.store, ACME)]

    def pointer_serial(self) -> int:
        try:
            return read_pointer(self.store, ACME).serial
        except ArtifactMissing:
            return 0

    @rule(tenant=st.sampled_from([ACME, LENDER]), model=st.sampled_from(MODELS), death=deaths)
    def publish(self, tenant: Tenant, model: ModelName, death: int | None) -> None:
        self.value += 1.0
        with dying_at(death):
            publish_bundle(
                self.store, tenant, model, Parts({}, {"value": self.value}), Golden([], []),
                card="", pictures={}, feature_schema="",
                training=TRAINING, now=NOW, signer=self.signer,
            )  # fmt: skip

    @precondition(lambda self: self.known_bundles())
    @rule(pick=picks, death=deaths)
    def publish_release(self, pick: int, death: int | None) -> None:
        ref = self.known_bundles()[pick % len(self.known_bundles())]
        with dying_at(death):
            publish_release(
                self.store,
                ACME,
                [ref],
                {},
                notes="",
                now=NOW,
                signer=self.signer,
                parents=frozenset({LENDER}),
            )

    @precondition(lambda self: self.known_releases())
    @rule(pick=picks, death=deaths)
    def promote(self, pick: int, death: int | None) -> None:
        ref, serial = (
            self.known_releases()[pick % len(self.known_releases())],
            self.pointer_serial(),
        )
        with contextlib.suppress(ArtifactMissing), dying_at(death):  # a bundle of it may be deleted
            promote(self.store, ACME, ref, serial, signer=self.signer)

    @rule(death=deaths)
    def roll_back(self, death: int | None) -> None:
        serial = self.pointer_serial()
        with contextlib.suppress(ArtifactMissing), dying_at(death):
            roll_back(self.store, ACME, serial, signer=self.signer)

    @precondition(lambda self: self.known_releases())
    @rule(pick=picks, death=deaths)
    def set_challenger(self, pick: int, death: int | None) -> None:
        ref, serial = (
            self.known_releases()[pick % len(self.known_releases())],
            get_challenger(self.store, ACME).serial,
        )
        with contextlib.suppress(ArtifactMissing), dying_at(death):
            set_challenger(self.store, ACME, ref, serial, signer=self.signer)

    @rule(death=deaths)
    def clear_challenger(self, death: int | None) -> None:
        serial = get_challenger(self.store, ACME).serial
        with dying_at(death):
            clear_challenger(self.store, ACME, serial, signer=self.signer)

    @rule(death=deaths)
    def promote_challenger(self, death: int | None) -> None:
        serial = self.pointer_serial()
        challenger = get_challenger(self.store, ACME)
        with contextlib.suppress(ArtifactMissing), dying_at(death):
            promote_challenger(self.store, ACME, challenger, serial, signer=self.signer)

    @precondition(lambda self: list_bundles(self.store, ACME, MODELS[0]))
    @rule(pick=picks, death=deaths)
    def set_champion(self, pick: int, death: int | None) -> None:
        known = list_bundles(self.store, ACME, MODELS[0])
        serial = get_alias(self.store, ACME, MODELS[0], Alias.CHAMPION).serial
        with dying_at(death):
            set_model_alias(
                self.store,
                ACME,
                MODELS[0],
                Alias.CHAMPION,
                known[pick % len(known)].ref,
                serial,
                signer=self.signer,
            )

    @precondition(lambda self: self.known_bundles())
    @rule(pick=picks, death=deaths, hostile=st.booleans())
    def delete(self, pick: int, death: int | None, *, hostile: bool) -> None:
        ref = self.known_bundles()[pick % len(self.known_bundles())]
        with contextlib.suppress(ArtifactInUse), dying_at(death):
            if hostile:
                quarantine_bundle(
                    self.store, ref.tenant, ref.model, ref.version, "", even_in_use=False
                )
            else:
                delete_bundle(self.store, ref.tenant, ref.model, ref.version)

    @precondition(lambda self: self.known_releases())
    @rule(pick=picks, death=deaths)
    def delete_release(self, pick: int, death: int | None) -> None:
        ref = self.known_releases()[pick % len(self.known_releases())]
        with contextlib.suppress(ArtifactInUse), dying_at(death):
            delete_release(self.store, ACME, ref.serial)

    @rule(tenant=st.sampled_from([ACME, LENDER]), keep=st.integers(1, 3), death=deaths)
    def retain(self, tenant: Tenant, keep: int, death: int | None) -> None:
        with dying_at(death):
            apply_retention(self.store, tenant, newest=keep)

    @precondition(lambda self: self.known_bundles())
    @rule(pick=picks, death=deaths)
    def import_again(self, pick: int, death: int | None) -> None:
        data = export_bundle(self.store, self.known_bundles()[pick % len(self.known_bundles())])
        with dying_at(death):
            import_archive(self.store, ACME, data, now=NOW, signer=self.signer, quota=None)

    @rule()
    def sweep(self) -> None:
        sweep_staging(self.store.state, now_s=(NOW + timedelta(days=36_500)).timestamp())

    @invariant()
    def what_serves_and_what_is_tried_loads(self) -> None:
        for ref in (self._current(), read_challenger(self.store, ACME)):
            if ref is not None:
                for bundle in read_release(self.store, ACME, ref).bundles.values():
                    open_bundle(self.store, bundle)
        champion = read_model_alias(self.store, ACME, MODELS[0], Alias.CHAMPION)
        assert champion is None or open_bundle(self.store, champion)

    @invariant()
    def a_number_means_one_thing_for_ever(self) -> None:
        seen = {
            (ref.tenant, ref.model, ref.version): ref.manifest_sha256
            for ref in self.known_bundles()
        }
        seen |= {(ACME, "", ref.serial): ref.sha256 for ref in self.known_releases()}
        assert {
            key: self.digests[key] for key in seen if key in self.digests
        }.items() <= seen.items()
        self.digests |= seen

    @invariant()
    def what_is_listed_is_whole_and_has_its_line(self) -> None:
        listed = [
            *list_bundles(self.store, ACME),
            *list_bundles(self.store, LENDER),
            *list_releases(self.store, ACME),
        ]
        assert not [one.problem for one in listed if one.problem]
        digests = {entry.digest for entry in read_audit(self.store, None, limit=10_000)}
        assert {
            one.ref.sha256 if isinstance(one.ref, ReleaseRef) else one.ref.manifest_sha256
            for one in listed
        } <= digests
        assert verify_audit(self.store).problems == ()

    @invariant()
    def the_pointer_never_goes_back(self) -> None:
        serial = self.pointer_serial()
        assert serial >= self.highest
        self.highest = serial

    def _current(self) -> ReleaseRef | None:
        try:
            return read_pointer(self.store, ACME).ref
        except ArtifactMissing:
            return None


TestStore = StoreMachine.TestCase
TestStore.settings = settings(max_examples=300 if LONG else 12, stateful_step_count=40)


def test_a_simulated_crash_stops_the_operation(tmp_path: Path) -> None:
    """The state machine is meaningful only if a crash stops the operation."""
    with dying_at(0):
        (tmp_path / "never").mkdir()

    assert not (tmp_path / "never").exists()
