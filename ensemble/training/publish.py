"""Publication of trained models: bundles, and a release in which they replace the current ones.

A release names every bundle it serves with, so a new one starts from the current one and replaces
only what was trained.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ensemble.errors import ArtifactMissing
from ensemble.events import Kind
from ensemble.features.tabular import schema_sha256
from ensemble.fusion import Fusion
from ensemble.layers import FEATURE_SCHEMAS
from ensemble.model import Model, Parts
from ensemble.runtime import golden_batch
from ensemble.store import (
    Alias,
    BundleRef,
    Golden,
    ModelName,
    ModelRegistry,
    Quota,
    Release,
    ReleaseRef,
    Signer,
    Store,
    Tenant,
    promote,
    publish_bundle,
    publish_release,
    read_pointer,
    read_release,
)

__all__ = [
    "Published",
    "Trained",
    "current_release",
    "digest_of",
    "golden_flows",
    "golden_of",
    "make_champion",
    "publish",
    "publish_detector",
    "renew_release",
]


GOLDEN_EVENTS = 16


@dataclass(frozen=True, slots=True)
class Trained:
    """A model ready to be published.

    Attributes:
        name: of the bundle, e.g. `anomaly-flow`.
        parts: of the model.
        golden: events and the scores that this model gives them.
        training: `recipe`, `data_sha256`, `seed`, `rows` and further facts; JSON values.
        card: the model card, Markdown.
        pictures: file name -> PNG.
    """

    name: str
    parts: Parts
    golden: Golden
    training: Mapping[str, Any]
    card: str
    pictures: Mapping[str, bytes] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Published:
    """The published bundles and release; the pointer's serial if it was promoted, else 0."""

    bundles: tuple[BundleRef, ...]
    release: ReleaseRef
    pointer_serial: int


def publish(
    store: Store,
    tenant: str,
    trained: Sequence[Trained],
    fusions: Mapping[Kind, Fusion],
    *,
    notes: str,
    now: datetime,
    signer: Signer,
    and_promote: bool,
    parents: Sequence[Tenant] = (),
) -> Published:
    """Publish models and a release in which they replace those of the same name.

    Args:
        store: `store.state` is written.
        tenant: owner of the models and the release.
        trained: the new models.
        fusions: kind -> its new fusion; the other kinds are unchanged.
        notes: reason of the release, for people.
        now: time of publication, with its time zone.
        signer: signs all of it; the store must trust its key.
        and_promote: also promote the release.
        parents: tenants whose release a first one is built on, the nearest first; what is not new
            in it is inherited.

    Raises:
        ArtifactError: something would not load again, the signer is not trusted, or another
            promotion came first.
    """
    owner = Tenant(tenant)
    refs = [
        publish_bundle(
            store,
            owner,
            ModelName(one.name),
            one.parts,
            one.golden,
            card=one.card,
            pictures=one.pictures,
            feature_schema=FEATURE_SCHEMAS[one.name]() if one.name in FEATURE_SCHEMAS else "",
            training=one.training,
            now=now,
            signer=signer,
        )
        for one in trained
    ]
    return renew_release(
        store,
        tenant,
        refs,
        fusions,
        notes=notes,
        now=now,
        signer=signer,
        and_promote=and_promote,
        parents=parents,
    )


def renew_release(
    store: Store,
    tenant: str,
    new: Iterable[BundleRef],
    fusions: Mapping[Kind, Fusion],
    *,
    notes: str,
    now: datetime,
    signer: Signer,
    and_promote: bool,
    parents: Sequence[Tenant] = (),
) -> Published:
    """Publish a release like the current one with `new` bundles and `fusions` in it.

    Arguments as in `publish`.
    """
    owner, refs = Tenant(tenant), tuple(new)
    serial, current = current_release(store, (owner, *parents))
    bundles = dict(current.bundles) if current else {}
    fusion = dict(current.fusion) if current else {}
    bundles |= {ref.model: ref for ref in refs}
    fusion |= {str(kind): one.to_config() for kind, one in fusions.items()}
    current_refs = current.bundles.values() if current else ()
    inherited = frozenset(ref.tenant for ref in current_refs)  # inherited bundles stay inherited
    release = publish_release(
        store,
        owner,
        bundles.values(),
        fusion,
        notes=notes,
        now=now,
        signer=signer,
        parents=inherited,
    )
    moved = promote(store, owner, release, serial, signer=signer).serial if and_promote else 0
    return Published(refs, release, moved)


def current_release(store: Store, lineage: Sequence[Tenant]) -> tuple[int, Release | None]:
    """Read the release of the first tenant of `lineage` that has one.

    Returns:
        Serial of the first tenant's pointer, 0 if it has none, and the release, None if there is
        none.
    """
    for tenant in lineage:
        try:
            pointer = read_pointer(store, tenant)
        except ArtifactMissing:
            continue
        return pointer.serial if tenant == lineage[0] else 0, read_release(store, tenant, pointer)
    return 0, None


def golden_of(model: Model, kind: Kind, events: Sequence[Mapping[str, Any]]) -> Golden:
    """Pair `events` with the scores of `model`, parsed and validated as at loading."""
    return Golden(tuple(events), tuple(model.score(golden_batch(kind, events)).scores.tolist()))


def golden_flows(
    features: NDArray[np.float32], is_hostile: NDArray[np.bool_]
) -> list[dict[str, Any]]:
    """Make a few golden flows of a training table; none of them is a flow of the data.

    Each is the mean of two flows far apart in the table, half of them benign pairs and half hostile
    ones, rounded to float32.
    """
    events = []
    for rows in (np.flatnonzero(~is_hostile), np.flatnonzero(is_hostile)):
        if rows.size:
            picks = rows[np.linspace(0, rows.size - 1, GOLDEN_EVENTS).astype(int)]
            means = (
                features[picks[: GOLDEN_EVENTS // 2]].astype(np.float64)
                + features[picks[GOLDEN_EVENTS // 2 :]]
            ) / 2
            events += [{"features": row} for row in means.astype(np.float32).astype(float).tolist()]
    return events


def digest_of(*arrays: NDArray[Any]) -> str:
    """Hash arrays by their bytes (SHA-256): the identity of the rows a model was trained on."""
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(
            str(array.dtype).encode()
            + str(array.shape).encode()
            + np.ascontiguousarray(array).tobytes()
        )
    return digest.hexdigest()


def publish_detector(
    store: Store,
    tenant: Tenant,
    trained: Trained,
    *,
    now: datetime,
    signer: Signer,
    quota: Quota | None = None,
) -> BundleRef:
    """Publish a detector as the next version of its name; `make_champion` lets it serve.

    Args:
        store: its `state` is written.
        tenant: owner of the detector.
        trained: from `fit_tabular`.
        now: time of publication, with its time zone.
        signer: the store must trust its key.
        quota: limits on versions and models.

    Raises:
        ArtifactError: it could not be read back, the store does not trust the signer, or the
            quota is full.
        OSError: the disk is full or failing.
    """
    return publish_bundle(
        store,
        tenant,
        ModelName(trained.name),
        trained.parts,
        trained.golden,
        card=trained.card,
        pictures=trained.pictures,
        feature_schema=schema_sha256(trained.training["feature_names"]),
        training=trained.training,
        now=now,
        signer=signer,
        quota=quota,
    )


def make_champion(store: Store, ref: BundleRef, *, signer: Signer) -> None:
    """Make a published version the champion: the one that serves.

    Raises:
        PointerMoved: another version became champion at the same moment.
        ArtifactError: it would not load, or the store does not trust the signer.
        OSError: the disk is full or failing; the former champion stays.
    """
    registry = ModelRegistry(store, ref.tenant, lambda _: signer)
    registry.set_alias(ref.model, Alias.CHAMPION, ref.version)
