"""Fixtures of all tests: real and made-up flows, a small store, its key, fixed random seeds."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import settings

from ensemble.model import Parts
from ensemble.store.bundles.codecs import Golden
from ensemble.store.bundles.publish import publish_bundle
from ensemble.store.bundles.quota import Quota
from ensemble.store.layout import Store
from ensemble.store.names import BundleRef, ModelName, ReleaseRef, Tenant
from ensemble.store.releases.release import publish_release
from ensemble.store.signing import Signer, Trust
from tests.support import made_flows
from tests.support.made_flows import MakeFlows
from tests.support.publishing import NOW, TRAINING

settings.register_profile("quick", deadline=None, derandomize=True, max_examples=100)
# RELIABILITY P11: ten thousand generated cases
settings.register_profile("verify", deadline=None, max_examples=10_000)
settings.load_profile("verify" if os.environ.get("AXON_VERIFY") == "1" else "quick")

Publish = Callable[..., BundleRef]


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    """Run async tests on asyncio, the only loop that Ray Serve uses."""
    return "asyncio"


@pytest.fixture(scope="session")
def data_root() -> Path:
    """The folder of real labelled data: ../shared/data, or the one that AXON_DATA names."""
    folder = Path(
        os.environ.get("AXON_DATA")
        or Path(__file__).resolve().parents[1].parent / "shared" / "data"
    )
    if not folder.is_dir():
        pytest.skip(
            "the labelled data (../shared/data, or the folder that AXON_DATA names) is not here"
        )
    return folder


@pytest.fixture(scope="session")
def signer() -> Signer:
    """The signing key of the tests, always the same, trusted only in tests."""
    return Signer(Ed25519PrivateKey.from_private_bytes(b"Axon's tests sign with this key."))


@pytest.fixture(scope="session")
def untrusted_signer() -> Signer:
    """A signing key that is on no trust list."""
    return Signer(Ed25519PrivateKey.from_private_bytes(b"Nobody trusts this key; not ours"))


@pytest.fixture(scope="session")
def trust(signer: Signer) -> Trust:
    """A trust list with the key of the tests alone."""
    return Trust({signer.key_id: signer.public}, frozenset())


@pytest.fixture
def no_fsync(monkeypatch: pytest.MonkeyPatch) -> None:
    """Skip fsync, which costs 4 ms each and proves nothing without a power cut.

    The crash tests model the power cut.
    """
    monkeypatch.setattr(os, "fsync", lambda _: None)


@pytest.fixture
def now() -> datetime:
    return NOW


@pytest.fixture
def acme() -> Tenant:
    return Tenant("acme")


@pytest.fixture
def store(tmp_path: Path, trust: Trust) -> Store:
    return Store(tmp_path / "var", None, trust)


@pytest.fixture
def two_roots(tmp_path: Path, trust: Trust) -> Store:
    return Store(tmp_path / "var", tmp_path / "artifacts", trust)


@pytest.fixture
def parts_of() -> Callable[[float], Parts]:
    return lambda value: Parts(
        {"weights": np.full((2, 3), value, dtype=np.float32)}, {"value": value, "names": ["a", "b"]}
    )


@pytest.fixture
def publish(parts_of: Callable[[float], Parts], signer: Signer) -> Publish:
    """`publish(store, value=..., tenant=..., model=...)`: publish a tiny bundle of `value`."""

    def one(
        store: Store,
        value: float = 1.0,
        *,
        tenant: str = "acme",
        model: str = "anomaly-flow",
        pictures: Mapping[str, bytes] | None = None,
        training: Mapping[str, Any] = TRAINING,
        signer: Signer = signer,
        quota: Quota | None = None,
    ) -> BundleRef:
        return publish_bundle(
            store,
            Tenant(tenant),
            ModelName(model),
            parts_of(value),
            Golden([{"kind": "flow", "id": "g1"}], [0.25]),
            card="# A toy\n",
            pictures=pictures or {},
            feature_schema="",
            training=training,
            now=NOW,
            signer=signer,
            quota=quota,
        )

    return one


@pytest.fixture
def folder_of() -> Callable[[Store, BundleRef], Path]:
    return lambda store, ref: (
        store.state / "tenants" / ref.tenant / "bundles" / ref.model / str(ref.version)
    )


@pytest.fixture
def release_of(acme: Tenant, now: datetime, signer: Signer) -> Callable[..., ReleaseRef]:
    """`release_of(store, bundle, ...)`: publish a release of acme."""
    fusion = {"weights": {"anomaly-flow": 1.0}, "prior": 0.01}
    return lambda store, *bundles, **more: publish_release(
        store, acme, bundles, fusion, notes="toy", now=now, signer=signer, **more
    )


@pytest.fixture
def two_releases(
    store: Store, publish: Callable[..., BundleRef], release_of: Callable[..., ReleaseRef]
) -> tuple[ReleaseRef, ReleaseRef]:
    """Two published releases of acme, neither promoted."""
    return release_of(store, publish(store, 1.0)), release_of(store, publish(store, 2.0))


@pytest.fixture(scope="session")
def make_flows() -> MakeFlows:
    """`make_flows(benign=420, families={...}, seed=0)`: flows of a small made-up network."""
    return made_flows.make_flows
