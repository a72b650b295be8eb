"""The fallbacks of a release (N-05): earlier ones, then those of the parents, each verified.

A release is chosen for the whole ensemble.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest

from ensemble.errors import ArtifactCorrupt, ArtifactMissing, ArtifactUntrusted
from ensemble.events import Kind
from ensemble.fusion import Fusion
from ensemble.layers import catalog
from ensemble.layers.catalog import LAYERS, LayerSpec
from ensemble.runtime import resolver
from ensemble.runtime.model_state import LoadedRelease, LoadFailure, SlotState
from ensemble.runtime.release_fusion import (
    FusionChoices,
    ReleaseFusion,
    choose_release,
    is_complete,
)
from ensemble.runtime.resolver import ReleaseResolver
from ensemble.store.layout import Store
from ensemble.store.names import BundleRef, ReleaseRef, Tenant
from ensemble.store.releases.pointer import Pointer, move_pointer, read_pointer
from ensemble.store.releases.release import promote, publish_release
from ensemble.store.signing import Signer, Trust

OWN, GROUP, GENERIC = Tenant("acme"), Tenant("banks"), Tenant("generic")


class Publisher:
    """A store with one bundle, of which the test publishes and promotes releases of any tenant."""

    def __init__(self, store: Store, signer: Signer, bundle: BundleRef, now: datetime) -> None:
        self.store, self._signer, self._bundle, self._now = store, signer, bundle, now
        self._serials: dict[Tenant, int] = {}
        self.resolver = ReleaseResolver(lambda: self.store, [OWN, GROUP, GENERIC])

    def release(self, tenant: Tenant) -> ReleaseRef:
        """Publish and promote a release of `tenant`."""
        parents = frozenset({self._bundle.tenant})
        ref = publish_release(
            self.store,
            tenant,
            [self._bundle],
            {},
            notes="",
            now=self._now,
            signer=self._signer,
            parents=parents,
        )
        self.point(tenant, ref)
        return ref

    def point(self, tenant: Tenant, ref: ReleaseRef) -> None:
        pointer = promote(
            self.store, tenant, ref, self._serials.get(tenant, 0), signer=self._signer
        )
        self._serials[tenant] = pointer.serial

    def path(self, tenant: Tenant, *parts: str) -> Path:
        path = self.store.state.joinpath("tenants", tenant, *parts)
        path.chmod(0o644)
        return path

    def found(self) -> list[str]:
        return [candidate.name for candidate in self.resolver.resolve().releases]


@pytest.fixture
def publisher(
    store: Store, signer: Signer, publish: Callable[..., BundleRef], now: datetime
) -> Publisher:
    return Publisher(store, signer, publish(store, tenant=GENERIC), now)


# candidates


def test_the_wanted_release_comes_first_and_earlier_ones_follow(publisher: Publisher) -> None:
    for _ in range(3):
        publisher.release(OWN)

    found = publisher.resolver.resolve()

    assert [candidate.name for candidate in found.releases] == ["acme/3", "acme/2", "acme/1"]
    assert [candidate.is_wanted for candidate in found.releases] == [True, False, False]
    assert (found.wanted, found.pointer, found.problem) == ("acme/3", "acme#3", None)


def test_a_tenant_without_a_release_inherits_from_its_parents_in_order(
    publisher: Publisher,
) -> None:
    """The order is tenant, group, generic tenant. A tenant without a release is no problem."""
    publisher.release(GENERIC)
    assert publisher.resolver.resolve().releases[0].is_wanted
    publisher.release(GROUP)

    found = publisher.resolver.resolve()

    assert (found.wanted, found.problem) == ("banks/1", None)
    assert [candidate.name for candidate in found.releases] == ["banks/1", "generic/1"]


def test_a_damaged_release_leaves_its_fallbacks(publisher: Publisher) -> None:
    for tenant in (GENERIC, OWN, OWN):
        publisher.release(tenant)
    publisher.path(OWN, "releases", "2.json").write_bytes(b"{")

    found = publisher.resolver.resolve()

    assert (found.wanted, [one.name for one in found.releases]) == (
        "acme/2",
        ["acme/1", "generic/1"],
    )
    assert not any(one.is_wanted for one in found.releases)
    assert found.problem is not None


def test_a_damaged_pointer_is_replaced_by_the_remembered_one(publisher: Publisher) -> None:
    """P5: a file that breaks during operation changes nothing."""
    publisher.release(OWN)
    publisher.release(GENERIC)
    publisher.resolver.resolve()
    publisher.path(OWN, "CURRENT").write_bytes(b"torn")

    found = publisher.resolver.resolve()
    assert [one.name for one in found.releases] == ["acme/1", "generic/1"]
    assert (found.wanted, found.releases[0].is_wanted) == ("acme/1", True)
    assert isinstance(found.problem, ArtifactUntrusted | ArtifactCorrupt), (
        "the problem must be reported"
    )


def test_a_damaged_pointer_without_a_remembered_one_is_reported(publisher: Publisher) -> None:
    """The parent's release serves, and the problem is reported."""
    publisher.release(OWN)
    publisher.release(GENERIC)
    publisher.path(OWN, "CURRENT").write_bytes(b"torn")

    found = ReleaseResolver(lambda: publisher.store, [OWN, GENERIC]).resolve()

    assert [(one.name, one.is_wanted) for one in found.releases] == [("generic/1", False)]
    assert (found.wanted, found.problem is not None) == ("", True)


def test_an_older_pointer_is_refused(publisher: Publisher) -> None:
    """Freeze and rollback attacks: an old pointer with a valid signature is a replay."""
    publisher.release(OWN)
    old = publisher.path(OWN, "CURRENT").read_bytes()
    publisher.release(OWN)
    publisher.resolver.resolve()
    publisher.path(OWN, "CURRENT").write_bytes(old)

    found = publisher.resolver.resolve()
    assert found.releases[0].name == "acme/2"
    assert isinstance(found.problem, ArtifactUntrusted), "P9: refused, and alarmed"


def test_a_pointer_of_a_removed_key_is_forgotten(
    publisher: Publisher, untrusted_signer: Signer, signer: Signer
) -> None:
    """Fast-forward attack with a stolen key.

    Once the key is removed, its serial no longer counts as the highest; there is no restart.
    """
    ref = publisher.release(OWN)
    both = Trust(
        {signer.key_id: signer.public, untrusted_signer.key_id: untrusted_signer.public},
        frozenset(),
    )
    honest, publisher.store = publisher.store, Store(publisher.store.state, None, both)
    old = publisher.path(OWN, "CURRENT").read_bytes()
    for _ in range(3):
        move_pointer(
            publisher.store,
            OWN,
            ref,
            read_pointer(publisher.store, OWN).serial,
            signer=untrusted_signer,
        )
    publisher.resolver.resolve()

    publisher.store = honest
    publisher.path(OWN, "CURRENT").write_bytes(old)

    assert publisher.resolver.resolve().pointer == "acme#1"


def test_an_abandoned_resolution_that_ends_late_does_not_lower_the_serial(
    publisher: Publisher, monkeypatch: pytest.MonkeyPatch
) -> None:
    publisher.release(OWN)
    honest = resolver.read_pointer

    def slow(*given: Any, **named: Any) -> Pointer:
        found = honest(*given, **named)
        if found.serial == 1:
            monkeypatch.setattr(resolver, "read_pointer", honest)
            publisher.release(OWN)
            publisher.resolver.resolve()
        return found

    monkeypatch.setattr(resolver, "read_pointer", slow)
    publisher.resolver.resolve()
    old = list(publisher.resolver._pointers.values())

    assert [pointer.serial for pointer in old] == [2]


def test_without_any_release_the_error_is_of_the_tenant_itself(publisher: Publisher) -> None:
    with pytest.raises(ArtifactMissing):
        publisher.resolver.resolve()


def test_releases_of_a_removed_key_do_not_serve(publisher: Publisher) -> None:
    """Every poll opens the store again, so that a stolen key can be removed without a restart."""
    publisher.release(OWN)
    publisher.resolver.resolve()
    publisher.store = Store(publisher.store.state, publisher.store.shipped, Trust({}, frozenset()))

    with pytest.raises(ArtifactUntrusted):
        publisher.resolver.resolve()


# the choice

FUSION = Fusion({"anomaly": 0.4, "behavior": 0.6}, 1.0, {})
NEW, OLD = (
    ReleaseFusion(name, {Kind.FLOW: FUSION, Kind.PROCESS: Fusion({"anomaly": 1.0}, 1.0, {})})
    for name in ("acme/2", "acme/1")
)
BOTH = FusionChoices("acme/2", "acme#2", at_once=False, releases=(NEW, OLD), problem=None)
EVERYTHING = {layer: frozenset(plan.kinds) for layer, plan in LAYERS.items()}


def states_of(**holds: Mapping[str, frozenset[Kind]]) -> dict[str, SlotState]:
    return {layer: SlotState(layer, "", {}, holds=dict(kinds)) for layer, kinds in holds.items()}


def all_hold(*releases: str, without: str = "", of: str = "") -> dict[str, SlotState]:
    """Every layer has loaded all of `releases`, but layer `without` lacks release `of`."""
    return states_of(
        **{
            layer: {
                name: frozenset() if (layer, name) == (without, of) else kinds for name in releases
            }
            for layer, kinds in EVERYTHING.items()
        }
    )


def test_a_complete_wanted_release_is_chosen() -> None:
    assert choose_release(BOTH, all_hold("acme/2", "acme/1")) is NEW
    assert is_complete(NEW, all_hold("acme/2"))


@pytest.mark.parametrize("layer", list(LAYERS))
def test_if_a_layer_lacks_the_wanted_release_the_one_before_serves_for_all_layers(
    layer: str,
) -> None:
    """P5, DESIGN: a verdict is of one release only.

    The posture counts too, because it shifts every score.
    """
    states = all_hold("acme/2", "acme/1", without=layer, of="acme/2")

    assert not is_complete(NEW, states)
    assert choose_release(BOTH, states) is OLD


@pytest.fixture
def own_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Add the custom detector `extremes` to the catalog."""
    spec = LayerSpec({Kind.FLOW: ("extremes-flow",)}, 0.0, is_optional=True, build=Mock())
    monkeypatch.setitem(catalog._layers, "extremes", spec)


@pytest.mark.usefixtures("own_layer")
def test_a_custom_detector_counts_for_the_choice_once_it_has_weight() -> None:
    """Without weight, a broken one neither delays the wanted release nor skips its canary."""
    states = all_hold("acme/2", "acme/1")
    states |= states_of(extremes={"acme/2": frozenset(), "acme/1": frozenset({Kind.FLOW})})
    weighed = replace(NEW, fusions={Kind.FLOW: Fusion({"anomaly": 0.9, "extremes": 0.1}, 1.0, {})})

    assert is_complete(NEW, states)
    assert choose_release(BOTH, states) is NEW
    assert not is_complete(weighed, states)
    assert choose_release(replace(BOTH, releases=(weighed, OLD)), states) is OLD


def test_a_partial_wanted_release_is_better_than_less_of_another() -> None:
    states = states_of(
        anomaly={"acme/2": frozenset({Kind.PROCESS}), "acme/1": frozenset()},
        behavior={"acme/2": frozenset({Kind.FLOW}), "acme/1": frozenset({Kind.FLOW})},
    )

    assert choose_release(BOTH, states) is NEW


def test_a_release_that_was_published_without_a_model_is_complete() -> None:
    """It is the publisher's intention, so the release before must not serve instead."""
    without = LoadedRelease(
        "acme/2", {}, {Kind.FLOW: LoadFailure("ARTIFACT_MISSING", "")}, frozenset({Kind.FLOW})
    )
    torn = LoadedRelease("acme/2", {}, {Kind.FLOW: LoadFailure("ARTIFACT_MISSING", "")})

    assert (without.is_complete, without.complete_kinds) == (True, frozenset({Kind.FLOW}))
    assert (torn.is_complete, torn.complete_kinds) == (False, frozenset())


def test_a_layer_that_did_not_report_does_not_count() -> None:
    for silent in itertools.chain(*(itertools.combinations(LAYERS, n) for n in range(1, 4))):
        states = {
            layer: state
            for layer, state in all_hold("acme/2", "acme/1").items()
            if layer not in silent
        }

        assert choose_release(BOTH, states) is NEW


def test_a_kind_missing_in_the_wanted_release_does_not_count_for_the_old_one() -> None:
    """It is the publisher's intention."""
    flows_only = ReleaseFusion("acme/2", {Kind.FLOW: FUSION})
    states = all_hold("acme/2", "acme/1")
    states["anomaly"] = SlotState(
        "anomaly", "", {}, holds={"acme/2": frozenset({Kind.FLOW}), "acme/1": frozenset(Kind)}
    )

    assert (
        choose_release(
            FusionChoices(
                "acme/2", "acme#2", at_once=False, releases=(flows_only, OLD), problem=None
            ),
            states,
        )
        is flows_only
    )
