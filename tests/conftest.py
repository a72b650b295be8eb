"""What every test may ask for.

The real data where it is here, made-up flows, a small store with its key, and chance that repeats.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import settings
from numpy.typing import NDArray

from ensemble.features.flow import FEATURE_NAMES, admit
from ensemble.model import Parts
from ensemble.store.bundles.codecs import Golden
from ensemble.store.bundles.publish import publish_bundle
from ensemble.store.bundles.quota import Quota
from ensemble.store.layout import Store
from ensemble.store.names import BundleRef, ModelName, ReleaseRef, Tenant
from ensemble.store.releases.release import publish_release
from ensemble.store.signing import Signer, Trust
from ensemble.training.data.flow_table import BENIGN, FlowTable

settings.register_profile("quick", deadline=None, derandomize=True, max_examples=100)
settings.register_profile(
    "verify", deadline=None, max_examples=10_000
)  # RELIABILITY P11: ten thousand generated cases
settings.load_profile("verify" if os.environ.get("AXON_VERIFY") == "1" else "quick")

MakeFlows = Callable[..., FlowTable]
Publish = Callable[..., BundleRef]
NOW = datetime(2026, 11, 20, 8, 15, tzinfo=UTC)
TRAINING = {"recipe": "toy", "data_sha256": "0" * 64, "seed": 7, "rows": 3}
Columns = Mapping[str, NDArray[np.float64]]

FAMILIES = {"Beacon": 80, "Flood": 80, "Scan": 80}
TIMES = tuple(
    f"{way} IAT {what}" for way in ("Flow", "Fwd", "Bwd") for what in ("Std", "Max", "Min")
)
PAUSES = (
    "Active Mean",
    "Active Std",
    "Active Max",
    "Active Min",
    "Idle Mean",
    "Idle Std",
    "Idle Max",
    "Idle Min",
)
LENGTHS = (
    "Fwd Packet Length Min",
    "Bwd Packet Length Min",
    "Min Packet Length",
    "Packet Length Std",
    "Packet Length Variance",
)
SCATTERED = dict.fromkeys((*TIMES, *PAUSES), "Flow Duration") | dict.fromkeys(
    LENGTHS, "Average Packet Size"
)


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
    """The key of the tests: always the same, and trusted by nobody but the tests."""
    return Signer(Ed25519PrivateKey.from_private_bytes(b"Axon's tests sign with this key."))


@pytest.fixture(scope="session")
def stranger() -> Signer:
    """A key that nobody trusts."""
    return Signer(Ed25519PrivateKey.from_private_bytes(b"Nobody trusts this key; not ours"))


@pytest.fixture(scope="session")
def trust(signer: Signer) -> Trust:
    """Trust in the key of the tests, and in nothing else."""
    return Trust({signer.key_id: signer.public}, frozenset())


@pytest.fixture
def patient_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Real fsyncs cost 4 ms each here and prove nothing while the power is on.

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
    """`publish(store, value=..., tenant=..., model=...)`.

    A tiny bundle whose arrays hold `value`.
    """

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
    """`release_of(store, bundle, ...)`: a release of acme's."""
    fusion = {"weights": {"anomaly-flow": 1.0}, "prior": 0.01}
    return lambda store, *bundles, **more: publish_release(
        store, acme, bundles, fusion, notes="toy", now=now, signer=signer, **more
    )


@pytest.fixture
def two_releases(
    store: Store, publish: Callable[..., BundleRef], release_of: Callable[..., ReleaseRef]
) -> tuple[ReleaseRef, ReleaseRef]:
    """Two published releases of acme, of which neither is promoted."""
    return release_of(store, publish(store, 1.0)), release_of(store, publish(store, 2.0))


@pytest.fixture(scope="session")
def make_flows() -> MakeFlows:
    """`make_flows(benign=420, families={...}, seed=0)`: flows of a small world, in order of time, over two days.

    Benign are web sessions and name look-ups. A `Flood` is many empty packets in no time, a `Scan`
    one packet and one reset,
    a `Beacon` a slow exchange of small packets of one size: the family that looks most like benign
    traffic.
    """

    def make(benign: int = 420, families: Mapping[str, int] = FAMILIES, seed: int = 0) -> FlowTable:
        generator = np.random.default_rng(seed)
        labels = np.repeat([BENIGN, *families], [benign, *families.values()])
        features = np.concatenate(
            [
                _flows_of(BENIGN, benign, generator),
                *(_flows_of(name, n, generator) for name, n in families.items()),
            ]
        )
        order = generator.permutation(len(labels))
        at = np.arange(len(labels))
        days = np.where(at < len(labels) // 2, "Monday", "Tuesday")
        times = np.array(
            [f"2017-07-0{3 + (i >= len(labels) // 2)} 09:{i // 60:02d}:{i % 60:02d}" for i in at]
        )
        blank = np.full(len(labels), "")
        return FlowTable(features[order], labels[order], days, times, blank, blank, at + 2)

    return make


def _flows_of(family: str, count: int, generator: np.random.Generator) -> NDArray[np.float32]:
    """float32 (count, 78): a few chosen quantities, and whatever follows from them."""
    match family:
        case "Flood":
            ahead = generator.integers(100, 400, count)
            sent = generator.uniform(0, 8, count)
            basics = _basics(
                ahead, ahead // 50, sent, np.zeros(count), generator.lognormal(10, 0.4, count)
            )
        case "Scan":
            one = np.ones(count)
            basics = _basics(
                one, one, np.zeros(count), np.zeros(count), generator.lognormal(4, 0.3, count)
            )
        case "Beacon":
            ahead = generator.integers(18, 24, count)
            sent, got = generator.normal(44, 1, (2, count))
            basics = _basics(ahead, ahead, sent, got, generator.lognormal(18, 0.2, count))
        case _:
            is_web = generator.random(count) < 0.7
            ahead = np.where(
                is_web, 3 + generator.poisson(10, count), generator.integers(1, 3, count)
            )
            back = np.where(is_web, ahead + generator.poisson(4, count), ahead)
            sent = np.where(
                is_web, generator.lognormal(4.4, 0.4, count), generator.normal(38, 5, count)
            )
            got = np.where(
                is_web, generator.lognormal(6.3, 0.4, count), generator.normal(90, 15, count)
            )
            lasts = np.where(
                is_web, generator.lognormal(13, 1.2, count), generator.lognormal(9.5, 0.6, count)
            )
            basics = _basics(ahead, back, sent, got, lasts)
    columns = {name: np.zeros(count) for name in FEATURE_NAMES} | basics
    for (
        name,
        of,
    ) in (
        SCATTERED.items()
    ):  # what a real network adds: no feature follows from the others to the last bit
        columns[name] = (
            columns[of] * generator.uniform(0.05, 0.5) * generator.lognormal(0, 0.3, count)
        )
    return admit(np.stack([columns[name] for name in FEATURE_NAMES], axis=1)).features


def _basics(
    ahead: NDArray[np.generic],
    back: NDArray[np.generic],
    sent: NDArray[np.float64],
    got: NDArray[np.float64],
    us: NDArray[np.float64],
) -> Columns:
    """Features that agree with each other.

    Args:
        ahead: packets of the caller.
        back: packets of the called.
        sent: mean length of the caller's packets.
        got: mean length of the called's packets.
        us: duration in microseconds.
    """
    ahead, back = np.asarray(ahead, np.float64), np.asarray(back, np.float64)
    sent, got, us = np.maximum(sent, 0), np.maximum(got, 0), np.maximum(np.round(us), 1)
    both, volume = ahead + back, np.round(sent * ahead) + np.round(got * back)
    return {
        "Destination Port": np.where(ahead > 2, 443.0, 53.0),
        "Flow Duration": us,
        "Total Fwd Packets": ahead,
        "Total Backward Packets": back,
        "Total Length of Fwd Packets": np.round(sent * ahead),
        "Total Length of Bwd Packets": np.round(got * back),
        "Fwd Packet Length Max": np.round(sent * 1.6),
        "Fwd Packet Length Mean": sent,
        "Fwd Packet Length Std": sent * 0.4,
        "Bwd Packet Length Max": np.round(got * 1.6),
        "Bwd Packet Length Mean": got,
        "Bwd Packet Length Std": got * 0.4,
        "Flow IAT Mean": us / np.maximum(both - 1, 1),
        "Fwd IAT Total": us,
        "Fwd IAT Mean": us / np.maximum(ahead - 1, 1),
        "Bwd IAT Total": us * 0.9,
        "Bwd IAT Mean": us / np.maximum(back - 1, 1),
        "Fwd Header Length": 20 * ahead,
        "Fwd Header Length.1": 20 * ahead,
        "Bwd Header Length": 20 * back,
        "Fwd Packets/s": ahead / us * 1e6,
        "Bwd Packets/s": back / us * 1e6,
        "Max Packet Length": np.round(np.maximum(sent, got) * 1.6),
        "Packet Length Mean": volume / both,
        "PSH Flag Count": np.minimum(ahead - 1, 4),
        "ACK Flag Count": both - 1,
        "SYN Flag Count": np.minimum(ahead, 1),
        "RST Flag Count": np.where(volume == 0, 1.0, 0.0),
        "Down/Up Ratio": np.floor(back / ahead),
        "Average Packet Size": volume / both,
        "Avg Fwd Segment Size": sent,
        "Avg Bwd Segment Size": got,
        "Subflow Fwd Packets": ahead,
        "Subflow Bwd Packets": back,
        "Init_Win_bytes_forward": np.where(volume == 0, 1024.0, 29200.0),
        "act_data_pkt_fwd": np.where(sent > 0, ahead - 1, 0),
        "min_seg_size_forward": np.full(len(us), 20.0),
    }
