"""Rollback (P8): one call, to a release that loads, by a newer pointer."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from ensemble.errors import ArtifactCorrupt, ArtifactMissing, PointerMoved
from ensemble.store.layout import Store
from ensemble.store.names import BundleRef, ReleaseRef, Tenant
from ensemble.store.releases.pointer import read_pointer
from ensemble.store.releases.release import promote, roll_back
from ensemble.store.signing import Signer


@pytest.fixture
def six(
    store: Store,
    acme: Tenant,
    publish: Callable[..., BundleRef],
    release_of: Callable[..., ReleaseRef],
    signer: Signer,
) -> list[ReleaseRef]:
    """Six releases of acme, promoted one after the other."""
    releases = [release_of(store, publish(store, float(number))) for number in range(6)]
    for serial, release in enumerate(releases):
        promote(store, acme, release, serial, signer=signer)
    return releases


def test_one_call_rolls_back_to_the_release_before(
    store: Store, acme: Tenant, six: list[ReleaseRef], signer: Signer
) -> None:
    """P8: all traffic moves at once."""
    pointer = roll_back(store, acme, 6, signer=signer)

    assert pointer == read_pointer(store, acme)
    assert (pointer.ref, pointer.serial, pointer.at_once) == (six[4], 7, True)


def test_further_rollbacks_go_further_back_and_never_forward(
    store: Store, acme: Tenant, six: list[ReleaseRef], signer: Signer
) -> None:
    """P8: the last five can be reached; a rollback never returns to a release that was left."""
    found = [roll_back(store, acme, serial, signer=signer).ref for serial in (6, 7, 8, 9)]

    assert found == [six[4], six[3], six[2], six[1]]
    with pytest.raises(ArtifactMissing):
        roll_back(store, acme, 10, signer=signer)


@pytest.mark.parametrize("to", [1, 3])
def test_an_earlier_release_can_be_named(
    store: Store, acme: Tenant, six: list[ReleaseRef], signer: Signer, to: int
) -> None:
    assert roll_back(store, acme, 6, signer=signer, to=to).ref == six[to - 1]


@pytest.mark.parametrize("to", [6, 7])
@pytest.mark.usefixtures("six")
def test_a_rollback_to_a_later_release_is_refused(
    store: Store, acme: Tenant, signer: Signer, to: int
) -> None:
    with pytest.raises(ArtifactMissing, match=f"release {to}"):
        roll_back(store, acme, 6, signer=signer, to=to)

    assert read_pointer(store, acme).serial == 6


@pytest.mark.usefixtures("six")
def test_a_rollback_with_a_stale_serial_is_refused(
    store: Store, acme: Tenant, signer: Signer
) -> None:
    """F22: two concurrent operators go back one step, not two."""
    roll_back(store, acme, 6, signer=signer)

    with pytest.raises(PointerMoved):
        roll_back(store, acme, 6, signer=signer)


@pytest.fixture
def release_file(store: Store) -> Callable[[int], Path]:
    return lambda number: store.state / "tenants" / "acme" / "releases" / f"{number}.json"


def test_a_rollback_skips_a_release_that_does_not_load(
    store: Store,
    acme: Tenant,
    six: list[ReleaseRef],
    signer: Signer,
    release_file: Callable[[int], Path],
) -> None:
    """P8: the target is always a proven release."""
    release_file(5).unlink()
    release_file(4).chmod(0o644)
    release_file(4).write_bytes(b"torn")

    assert roll_back(store, acme, 6, signer=signer).ref == six[2]


@pytest.mark.usefixtures("six")
def test_a_named_release_that_does_not_load_is_refused(
    store: Store, acme: Tenant, signer: Signer, release_file: Callable[[int], Path]
) -> None:
    release_file(5).chmod(0o644)
    release_file(5).write_bytes(b"torn")

    with pytest.raises(ArtifactCorrupt):
        roll_back(store, acme, 6, signer=signer, to=5)

    assert read_pointer(store, acme).serial == 6


def test_a_tenant_that_never_had_a_release_has_none_before(
    store: Store, acme: Tenant, signer: Signer
) -> None:
    with pytest.raises(ArtifactMissing):
        roll_back(store, acme, 0, signer=signer)
