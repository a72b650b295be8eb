"""The ladder of fallbacks (N-05).

The wanted release, those before it, those of the parents; proven at every rung, chosen as a whole.
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


class Shop:
    """A store in which releases are published and promoted.

    A bundle is lent where a tenant has none of its own.
    """

    def __init__(self, store: Store, signer: Signer, bundle: BundleRef, now: datetime) -> None:
        self.store, self._signer, self._bundle, self._now = store, signer, bundle, now
        self._serials: dict[Tenant, int] = {}
        self.resolver = ReleaseResolver(lambda: self.store, [OWN, GROUP, GENERIC])

    def release(self, tenant: Tenant) -> ReleaseRef:
        """A new release of `tenant`, promoted."""
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
def shop(store: Store, signer: Signer, publish: Callable[..., BundleRef], now: datetime) -> Shop:
    return Shop(store, signer, publish(store, tenant=GENERIC), now)


# candidates


def test_the_wanted_release_comes_first_and_the_ones_before_it_after_it(shop: Shop) -> None:
    for _ in range(3):
        shop.release(OWN)

    found = shop.resolver.resolve()

    assert [candidate.name for candidate in found.releases] == ["acme/3", "acme/2", "acme/1"]
    assert [candidate.is_wanted for candidate in found.releases] == [True, False, False]
    assert (found.wanted, found.pointer, found.problem) == ("acme/3", "acme#3", None)


def test_a_tenant_without_a_release_lives_on_its_parents_in_order(shop: Shop) -> None:
    """The tenant, its group, the generic one. That is no trouble: it is how a tenant begins."""
    shop.release(GENERIC)
    assert shop.resolver.resolve().releases[0].is_wanted
    shop.release(GROUP)

    found = shop.resolver.resolve()

    assert (found.wanted, found.problem) == ("banks/1", None)
    assert [candidate.name for candidate in found.releases] == ["banks/1", "generic/1"]


def test_a_torn_release_leaves_the_ones_below_it(shop: Shop) -> None:
    for tenant in (GENERIC, OWN, OWN):
        shop.release(tenant)
    shop.path(OWN, "releases", "2.json").write_bytes(b"{")

    found = shop.resolver.resolve()

    assert (found.wanted, [one.name for one in found.releases]) == (
        "acme/2",
        ["acme/1", "generic/1"],
    )
    assert not any(one.is_wanted for one in found.releases)
    assert found.problem is not None


def test_a_pointer_that_was_seen_is_remembered_when_it_is_torn(shop: Shop) -> None:
    """P5: what breaks while it serves changes nothing."""
    shop.release(OWN)
    shop.release(GENERIC)
    shop.resolver.resolve()
    shop.path(OWN, "CURRENT").write_bytes(b"torn")

    found = shop.resolver.resolve()
    assert [one.name for one in found.releases] == ["acme/1", "generic/1"]
    assert (found.wanted, found.releases[0].is_wanted) == ("acme/1", True)
    assert isinstance(found.problem, ArtifactUntrusted | ArtifactCorrupt), (
        "it changes nothing, and it is told"
    )


def test_a_pointer_that_was_never_seen_whole_is_passed_over_with_a_word(shop: Shop) -> None:
    """Scoring with the parent's release, and saying so, before not scoring at all."""
    shop.release(OWN)
    shop.release(GENERIC)
    shop.path(OWN, "CURRENT").write_bytes(b"torn")

    found = ReleaseResolver(lambda: shop.store, [OWN, GENERIC]).resolve()

    assert [(one.name, one.is_wanted) for one in found.releases] == [("generic/1", False)]
    assert (found.wanted, found.problem is not None) == ("", True)


def test_an_older_pointer_that_comes_back_changes_nothing(shop: Shop) -> None:
    """Freeze and rollback: an old pointer, honestly signed, is a replay."""
    shop.release(OWN)
    old = shop.path(OWN, "CURRENT").read_bytes()
    shop.release(OWN)
    shop.resolver.resolve()
    shop.path(OWN, "CURRENT").write_bytes(old)

    found = shop.resolver.resolve()
    assert found.releases[0].name == "acme/2"
    assert isinstance(found.problem, ArtifactUntrusted), "P9: refused, and alarmed"


def test_a_pointer_of_a_key_that_was_taken_away_steers_nobody(
    shop: Shop, stranger: Signer, signer: Signer
) -> None:
    """Fast-forward and key compromise together.

    Once the key is gone its serial is no longer the highest seen; no restart.
    """
    ref = shop.release(OWN)
    both = Trust({signer.key_id: signer.public, stranger.key_id: stranger.public}, frozenset())
    honest, shop.store = shop.store, Store(shop.store.state, None, both)
    old = shop.path(OWN, "CURRENT").read_bytes()
    for _ in range(3):
        move_pointer(shop.store, OWN, ref, read_pointer(shop.store, OWN).serial, signer=stranger)
    shop.resolver.resolve()

    shop.store = honest
    shop.path(OWN, "CURRENT").write_bytes(old)

    assert shop.resolver.resolve().pointer == "acme#1"


def test_a_look_that_was_given_up_and_ends_late_does_not_turn_back_the_serial(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop.release(OWN)
    honest = resolver.read_pointer

    def slow(*given: Any, **named: Any) -> Pointer:
        found = honest(*given, **named)
        if found.serial == 1:
            monkeypatch.setattr(resolver, "read_pointer", honest)
            shop.release(OWN)
            shop.resolver.resolve()
        return found

    monkeypatch.setattr(resolver, "read_pointer", slow)
    shop.resolver.resolve()
    old = list(shop.resolver._pointers.values())

    assert [pointer.serial for pointer in old] == [2]


def test_nothing_at_all_is_an_error_of_the_tenant_itself(shop: Shop) -> None:
    with pytest.raises(ArtifactMissing):
        shop.resolver.resolve()


def test_a_key_that_was_taken_away_takes_its_releases_with_it(shop: Shop) -> None:
    """The store is opened anew at every look.

    What a stolen key signed is gone without a restart.
    """
    shop.release(OWN)
    shop.resolver.resolve()
    shop.store = Store(shop.store.state, shop.store.shipped, Trust({}, frozenset()))

    with pytest.raises(ArtifactUntrusted):
        shop.resolver.resolve()


# the choice

FUSION = Fusion({"anomaly": 0.4, "behavior": 0.6}, 1.0, {})
NEW, OLD = (
    ReleaseFusion(name, {Kind.FLOW: FUSION, Kind.PROCESS: Fusion({"anomaly": 1.0}, 1.0, {})})
    for name in ("acme/2", "acme/1")
)
BOTH = FusionChoices("acme/2", "acme#2", at_once=False, releases=(NEW, OLD), problem=None)
EVERYTHING = {layer: frozenset(plan.kinds) for layer, plan in LAYERS.items()}


def said(**holds: Mapping[str, frozenset[Kind]]) -> dict[str, SlotState]:
    return {layer: SlotState(layer, "", {}, holds=dict(held)) for layer, held in holds.items()}


def all_hold(*releases: str, without: str = "", of: str = "") -> dict[str, SlotState]:
    """Every layer has all of `releases`, but for layer `without`, which has nothing of release `of`."""
    return said(
        **{
            layer: {
                name: frozenset() if (layer, name) == (without, of) else kinds for name in releases
            }
            for layer, kinds in EVERYTHING.items()
        }
    )


def test_a_whole_release_is_the_one_that_is_wanted() -> None:
    assert choose_release(BOTH, all_hold("acme/2", "acme/1")) is NEW
    assert is_complete(NEW, all_hold("acme/2"))


@pytest.mark.parametrize("layer", list(LAYERS))
def test_where_a_layer_cannot_have_the_wanted_release_the_one_before_serves_as_a_whole(
    layer: str,
) -> None:
    """P5, and DESIGN.

    An answer is made by one release only. The posture counts too: a shift that is missing is seen
    in every score.
    """
    states = all_hold("acme/2", "acme/1", without=layer, of="acme/2")

    assert not is_complete(NEW, states)
    assert choose_release(BOTH, states) is OLD


@pytest.fixture
def own_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    """The catalog also lists `extremes`, a layer of the operator's own."""
    spec = LayerSpec({Kind.FLOW: ("extremes-flow",)}, 0.0, is_optional=True, build=Mock())
    monkeypatch.setitem(catalog._layers, "extremes", spec)


@pytest.mark.usefixtures("own_layer")
def test_an_own_layer_counts_for_the_choice_of_the_release_once_it_weighs() -> None:
    """Until then a broken one neither holds the wanted release back nor skips its canary."""
    states = all_hold("acme/2", "acme/1")
    states |= said(extremes={"acme/2": frozenset(), "acme/1": frozenset({Kind.FLOW})})
    weighed = replace(NEW, fusions={Kind.FLOW: Fusion({"anomaly": 0.9, "extremes": 0.1}, 1.0, {})})

    assert is_complete(NEW, states)
    assert choose_release(BOTH, states) is NEW
    assert not is_complete(weighed, states)
    assert choose_release(replace(BOTH, releases=(weighed, OLD)), states) is OLD


def test_half_of_the_wanted_release_is_better_than_less_of_another() -> None:
    states = said(
        anomaly={"acme/2": frozenset({Kind.PROCESS}), "acme/1": frozenset()},
        behavior={"acme/2": frozenset({Kind.FLOW}), "acme/1": frozenset({Kind.FLOW})},
    )

    assert choose_release(BOTH, states) is NEW


def test_a_release_that_was_published_without_a_layers_model_lacks_nothing() -> None:
    """Whoever takes a model out of a release means it.

    It must not be passed over for the one before, for ever.
    """
    without = LoadedRelease(
        "acme/2", {}, {Kind.FLOW: LoadFailure("ARTIFACT_MISSING", "")}, frozenset({Kind.FLOW})
    )
    torn = LoadedRelease("acme/2", {}, {Kind.FLOW: LoadFailure("ARTIFACT_MISSING", "")})

    assert (without.is_complete, without.complete_kinds) == (True, frozenset({Kind.FLOW}))
    assert (torn.is_complete, torn.complete_kinds) == (False, frozenset())


def test_a_layer_that_did_not_answer_speaks_neither_for_nor_against_a_release() -> None:
    for silent in itertools.chain(*(itertools.combinations(LAYERS, n) for n in range(1, 4))):
        states = {
            layer: state
            for layer, state in all_hold("acme/2", "acme/1").items()
            if layer not in silent
        }

        assert choose_release(BOTH, states) is NEW


def test_a_kind_that_the_wanted_release_was_published_without_does_not_speak_for_the_old_one() -> (
    None
):
    """Whoever takes a model out of a release means it."""
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
